#!/usr/bin/env bash
# Gather wheels for a GPU machine without a network, which has torch, triton and numpy.
#   scripts/collect_gpu_wheels.sh                what lmtrain needs and such a machine rarely has
#   scripts/collect_gpu_wheels.sh --all          also tokenizers, xxhash, transformers, matplotlib, pytest, …
#   scripts/collect_gpu_wheels.sh --arrow        also pyarrow, for preparing parquet; as large as all others
#   scripts/collect_gpu_wheels.sh --peers        also fla-core, and mamba-ssm without CUDA extensions
#   scripts/collect_gpu_wheels.sh --layers       also flash-linear-attention, whose models need transformers
#   scripts/collect_gpu_wheels.sh --flash-qla    also FlashQLA and TileLang, which fla's gradients need too
#                                                on Hopper under Triton 3.4 to 3.7.0
#   --only     nothing but what the options name
#   --to DIR   the folder, .whl unless said; it is emptied first
#   PYTHON=3.11 scripts/collect_gpu_wheels.sh    for another Python than 3.12
# There: python3 -m pip install --no-index --no-deps --target DIR .whl/*.whl, PYTHONPATH=DIR, and
# scripts/gpu_check.sh.
set -euo pipefail
cd "$(dirname "$0")/.."

version=${PYTHON:-3.12} to=.whl mamba=
needed=(hydra-core omegaconf) packages=() qla=()
while [ $# -gt 0 ]; do
    case $1 in
        --all)
            packages+=(PyYAML rich markdown-it-py mdurl Pygments tokenizers safetensors xxhash)
            packages+=(matplotlib contourpy cycler fonttools kiwisolver pyparsing pillow python-dateutil packaging)
            packages+=(pytest iniconfig pluggy hypothesis sortedcontainers huggingface_hub transformers regex) ;;
        --arrow) packages+=(pyarrow) ;;
        --peers) packages+=(fla-core==0.6.0 einops) mamba=2.3.2.post1 ;;
        --layers) packages+=(fla-core==0.6.0 flash-linear-attention==0.6.0 einops) ;;
        --flash-qla)
            packages+=(flash-qla==0.1.3 torch-c-dlpack-ext==0.1.5 'apache-tvm-ffi<0.1.13')
            qla=(tilelang==0.1.15 'z3-solver<4.15.5') ;;
        --only) needed=() ;;
        --to) to=$2; shift ;;
        *) echo "unknown option $1: --all, --arrow, --peers, --layers, --flash-qla, --only or --to" >&2; exit 2 ;;
    esac
    shift
done

make --silent setup
rm -rf "$to"
mkdir -p "$to"
pip=(.venv/bin/python -m pip --quiet)
fetch() { # folder, packages: wheels for that machine
    local folder=$1 platform platforms=()
    for platform in manylinux_2_28 manylinux_2_27 manylinux_2_24 manylinux_2_17 manylinux2014 manylinux1; do
        platforms+=(--platform "${platform}_x86_64")
    done
    "${pip[@]}" download --no-deps --only-binary=:all: --constraint constraints.txt --dest "$folder" \
        --python-version "$version" --implementation cp "${platforms[@]}" "${@:2}"
}

read -ra packages <<<"$(printf '%s\n' "${needed[@]}" "${packages[@]}" | sort -u | tr '\n' ' ')"
[ ${#packages[@]} = 0 ] || fetch "$to" "${packages[@]}"
if [ ${#needed[@]} != 0 ]; then # published as source only; pure Python, so one wheel serves everywhere
    "${pip[@]}" wheel --no-deps --wheel-dir "$to" --constraint constraints.txt antlr4-python3-runtime
fi
if [ -n "$mamba" ]; then # its Triton kernels need none of its extensions
    MAMBA_SKIP_CUDA_BUILD=TRUE MAMBA_FORCE_BUILD=TRUE "${pip[@]}" wheel --no-deps --no-build-isolation \
        --no-binary=mamba-ssm --wheel-dir "$to" "mamba-ssm==$mamba"
fi
if [ ${#qla[@]} != 0 ]; then
    # Both are large, so they are packed tighter, without z3's command line and headers. It holds its
    # library twice: the copy that Python loads serves TileLang too, since its inner name is the other.
    large=$(mktemp -d)
    trap 'rm -rf "$large"' EXIT
    fetch "$large" "${qla[@]}"
    .venv/bin/python - "$to" "$large"/*.whl <<'PYTHON'
import re
import sys
import zipfile
from pathlib import Path

UNUSED = re.compile(r".*/bin/z3|z3/include/.*|z3/lib/libz3\.so\..*")

for source in map(Path, sys.argv[2:]):
    made = zipfile.ZipFile(Path(sys.argv[1], source.name), "w", zipfile.ZIP_LZMA)
    with zipfile.ZipFile(source) as wheel, made:
        for entry in wheel.infolist():
            if UNUSED.fullmatch(entry.filename):
                continue
            data = wheel.read(entry)
            if entry.filename.endswith(".dist-info/RECORD"):
                lines = data.decode().splitlines(keepends=True)
                kept = [line for line in lines if not UNUSED.fullmatch(line.split(",")[0])]
                data = "".join(kept).encode()
            made.writestr(entry, data, zipfile.ZIP_LZMA)
PYTHON
fi
du -ch --apparent-size "$to"/*.whl
