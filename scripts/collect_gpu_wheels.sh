#!/usr/bin/env bash
# Gather into .whl/ what lmtrain needs beyond torch and numpy on a GPU machine without a network.
#   scripts/collect_gpu_wheels.sh                     small: what is rarely there already
#   scripts/collect_gpu_wheels.sh --all               and pyarrow, transformers, pytest, hypothesis
#   scripts/collect_gpu_wheels.sh --fla               and the peers flash-linear-attention, fla-core
#   PYTHON=3.11 scripts/collect_gpu_wheels.sh         for another Python than 3.12
# There: python3 -m pip install --no-index --no-deps .whl/*.whl && scripts/gpu_check.sh
set -euo pipefail
cd "$(dirname "$0")/.."

version=${PYTHON:-3.12}
packages=(hydra-core omegaconf PyYAML rich markdown-it-py mdurl Pygments tokenizers safetensors)
for option in "$@"; do
    case $option in
        --all) packages+=(pyarrow transformers huggingface_hub regex pytest iniconfig pluggy hypothesis sortedcontainers) ;;
        --fla) packages+=(flash-linear-attention fla-core einops) ;;
        *) echo "unknown option $option: --all or --fla" >&2; exit 2 ;;
    esac
done

make --silent setup
mkdir -p .whl
pip=(.venv/bin/python -m pip --quiet)
"${pip[@]}" download --no-deps --only-binary=:all: --constraint constraints.txt --dest .whl \
    --python-version "$version" --platform manylinux_2_28_x86_64 --platform manylinux2014_x86_64 "${packages[@]}"
# published as source only; pure Python, so a wheel made here serves everywhere
"${pip[@]}" wheel --no-deps --wheel-dir .whl --constraint constraints.txt antlr4-python3-runtime
du -ch .whl/*.whl
