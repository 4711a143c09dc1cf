# For servers with CUDA cards:  docker build -t lost . && docker run --rm --gpus all --ipc=host -v "$PWD:/work" lost doctor
# Untested: built by nobody yet, as no machine with Docker and a card was there.
FROM python:3.12-slim

# A C compiler: Triton compiles its launchers.
RUN apt-get update && apt-get install -y --no-install-recommends gcc g++ && rm -rf /var/lib/apt/lists/*

# PyPI's PyTorch for Linux is the CUDA build, with the libraries it needs; the driver is the host's. It has a layer of its own, so
# that a change of this tree doesn't fetch it again.
COPY constraints.txt /src/
RUN pip install --no-cache-dir -c /src/constraints.txt torch
COPY . /src
RUN pip install --no-cache-dir -c /src/constraints.txt '/src[torch,data,tokenizers,chat,hf,tensorboard,report]'

# Runs belong to whoever starts the container:  --user "$(id -u):$(id -g)"
ENV HOME=/tmp
WORKDIR /work
ENTRYPOINT ["lost"]
