#!/bin/sh
# Makes .venv and installs lost into it, with the extras asked for:   sh setup.sh torch,mlx,dev
# PYTHON=... names the interpreter; else it is python3, or the newest that will do.
set -eu
cd "$(dirname "$0")"

refuse() {
    echo "setup: $1" >&2
    exit 2
}

runs() { # an interpreter for which all packages have wheels?
    "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 14))' 2>/dev/null
}

if [ "$(uname -s)" = Darwin ]; then
    if [ "$(sysctl -n sysctl.proc_translated 2>/dev/null)" = 1 ]; then
        refuse "this terminal runs under Rosetta, as an Intel Mac would; expected a native one: start \`arch -arm64 zsh\`, and make again"
    fi
    [ "$(uname -m)" = arm64 ] || refuse "this is an Intel Mac, for which neither MLX nor PyTorch is built any more; expected Apple silicon"
    macos=$(sw_vers -productVersion)
    [ "${macos%%.*}" -ge 14 ] || refuse "this is macOS $macos; expected 14 or newer, which MLX needs; update it in System Settings"
fi

found=
for each in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
    if runs "$each"; then
        found=$each
        break
    fi
done
if [ -z "$found" ]; then
    have=$("${PYTHON:-python3}" -c 'import sys; print("is Python", sys.version.split()[0])' 2>/dev/null || echo "isn't there")
    refuse "${PYTHON:-python3} $have; expected Python 3.11 to 3.14: install one (\`brew install python@3.13\`, \`apt install python3 python3-venv\`, \`uv python install 3.13\`, or from python.org), or name it: \`make PYTHON=/path/to/python3 ...\`"
fi
if [ "$(uname -s)" = Darwin ] && [ "$("$found" -c 'import platform; print(platform.machine())')" != arm64 ]; then
    refuse "$found is built for Intel Macs; expected one for Apple silicon: \`brew install python@3.13\` in a native terminal"
fi

# What an interrupted set-up left is made anew; a finished one is added to.
if ! [ -e .venv/.finished ] || ! runs .venv/bin/python; then
    rm -f .venv/.finished
    "$found" -m venv --clear .venv
fi
.venv/bin/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$1]"
touch .venv/.finished
