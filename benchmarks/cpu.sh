#!/bin/sh
# Kinds of projection beside each other on this CPU, PyTorch and MLX: prints benchmarks/results/cpu.md.
# usage: sh benchmarks/cpu.sh > benchmarks/results/cpu.md        (minutes on two cores, with nothing else running)
set -e
# MLX's Linux build has a slow BLAS; PyTorch's, loaded first, stands in for the one a Mac has.
blas=$(python -c "import torch, pathlib; print(pathlib.Path(torch.__file__).parent / 'lib' / 'libtorch_cpu.so')")
measured() {
    printf '\n`lost bench %s`\n\n```\n' "$*"
    lost bench "$@" 2>/dev/null
    printf '```\n'
}
printf '# On a CPU\n\n`sh benchmarks/cpu.sh`, %s; MLX with LD_PRELOAD=libtorch_cpu.so.\n' "$(date +%F)"
measured llama_60m_paper --layer --backend torch --device cpu --dtype float32 --rounds 100
measured llama_60m_paper --layer --backend torch --device cpu --dtype bfloat16 --rounds 100
measured llama_60m_paper --model --backend torch --device cpu --seq-len 256 --rounds 9 --kinds dense,lowrank,cola,sltrain,lost
export LD_PRELOAD="$blas"
measured llama_60m_paper --layer --backend mlx --device cpu --dtype float32 --rounds 50
measured llama_60m_paper --model --backend mlx --device cpu --seq-len 256 --rounds 9 --kinds dense,cola,lost
