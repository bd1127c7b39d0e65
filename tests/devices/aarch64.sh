#!/usr/bin/env bash
# An aarch64 machine in a folder: Debian's Python with NumPy and ONNX Runtime, run by qemu-user.
# Usage: aarch64.sh FOLDER; then FOLDER/python3 is that Python. Needs apt, dpkg-deb, pip and qemu-aarch64-static.
# The packages' list is kept beside the machine's own, so that nothing of the machine changes.
set -euo pipefail
folder="$(realpath -m "$1")"
[ -x "$folder/python3" ] && exit 0
command -v qemu-aarch64-static > /dev/null || { echo "qemu-aarch64-static is missing: apt-get install qemu-user-static" >&2; exit 2; }
work="$(mktemp -d)"
trap 'rm -rf "$work"' EXIT
mkdir -p "$work/lists/partial" "$work/cache/archives/partial" "$work/root" "$work/debs"
touch "$work/status"
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o Dir::State::lists="$work/lists"
     -o Dir::State::status="$work/status" -o Dir::Cache="$work/cache" -o APT::Sandbox::User=root)
"${apt[@]}" update
(cd "$work/debs" && "${apt[@]}" download python3.11-minimal libpython3.11-minimal libpython3.11-stdlib libc6 libgcc-s1 \
    libstdc++6 zlib1g libexpat1 libssl3 libffi8 libbz2-1.0 liblzma5 libsqlite3-0 libuuid1)
for deb in "$work"/debs/*.deb; do dpkg-deb -x "$deb" "$work/root"; done
# Debian 12's qemu crashes on ONNX Runtime 1.31.
python3 -m pip install --quiet --no-deps --no-compile --target "$work/root/opt/site" --only-binary=:all: \
    --implementation cp --python-version 311 --platform manylinux_2_28_aarch64 --platform manylinux_2_27_aarch64 \
    --platform manylinux2014_aarch64 onnxruntime==1.24.2 numpy flatbuffers protobuf packaging
cat > "$work/python3" <<SH
#!/bin/sh
PYTHONPATH="$folder/root/opt/site\${PYTHONPATH:+:\$PYTHONPATH}" PYTHONHOME="$folder/root/usr" \\
exec qemu-aarch64-static -L "$folder/root" "$folder/root/usr/bin/python3.11" "\$@"
SH
chmod +x "$work/python3"
mkdir -p "$folder"
cp -a "$work/root" "$work/python3" "$folder"
