#!/usr/bin/env bash
# Install Medweave and one extra into $VENV. Usage: install.sh EXTRA
# The versions are those of constraints.txt, except that a working torch (2.11 or newer) which is already on the machine is kept.
set -euo pipefail
extra=$1
python=${PYTHON:-python3}
venv=${VENV:-.venv}
constraints=constraints.txt

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Medweave needs Python 3.11 or newer; call make with PYTHON=python3.11" >&2; exit 2; }

if [ ! -x "$venv/bin/python" ]; then
    if "$python" -c 'import torch, torchvision; torchvision.ops.nms; assert tuple(map(int, torch.__version__.split(".")[:2])) >= (2, 11)' 2>/dev/null; then
        echo "Using the torch that is already installed."
        "$python" -m venv --system-site-packages "$venv"
    else
        "$python" -m venv "$venv"
    fi
fi
if grep -q 'include-system-site-packages = true' "$venv/pyvenv.cfg"; then
    constraints=$venv/constraints.txt
    grep -vE '^(torch|torchvision|triton|nvidia-|cuda-|numpy)' constraints.txt > "$constraints"
    "$venv/bin/python" - >> "$constraints" <<'PY'
from importlib.metadata import version

for name in ("torch", "torchvision"):
    print(f"{name}=={version(name).split('+')[0]}")
PY
fi
"$venv/bin/python" -m pip install -q --disable-pip-version-check uv
if [ "$constraints" = constraints.txt ]; then
    "$venv/bin/uv" pip install -q -p "$venv" -c "$constraints" -e ".[$extra]"
else
    # uv looks into the virtual environment only; pip also counts what the system Python has.
    "$venv/bin/python" -m pip install -q --disable-pip-version-check -c "$constraints" -e ".[$extra]"
fi
