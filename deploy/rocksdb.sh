#!/usr/bin/env bash
# rocksdb.sh OUT: compiles RocksDB's archive OUT/librocksdb.a from the sources of the pinned librocksdb-sys crate, in a
# dozen large translation units instead of 342 small ones: nearly all the time goes into parsing the same headers
# (docs/adr/0001-one-rocksdb-archive.md). Needs a C++20 compiler, ar and cargo, on x86-64 or AArch64 Linux.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:?rocksdb.sh OUT}

sources=$(cargo metadata --locked --format-version 1 |
  grep -o '"manifest_path":"[^"]*/librocksdb-sys-[^"]*/Cargo.toml"' | head -1 | cut -d'"' -f4)
sources=$(dirname "$sources")
[ -f "$sources/rocksdb_lib_sources.txt" ] || { echo "rocksdb.sh: no sources of RocksDB in $sources" >&2; exit 1; }

work="$out/.build"
rm -rf "$work"
mkdir -p "$work"
trap 'rm -rf "$work"' EXIT

# The defines and CPU flags of librocksdb-sys's build script for Linux. -O1: the metadata store waits for the disk, not
# for its CPU.
flags=(-std=c++20 -O1 -fPIC -ffunction-sections -fdata-sections -w -include cstdint
  -I"$sources/rocksdb/include" -I"$sources/rocksdb" -I"$sources" -DNDEBUG=1 -DHAVE_ALIGNED_NEW -DHAVE_UINT128_EXTENSION
  -DOS_LINUX -DROCKSDB_PLATFORM_POSIX -DROCKSDB_LIB_IO_POSIX -DROCKSDB_SCHED_GETCPU_PRESENT
  -DROCKSDB_AUXV_GETAUXVAL_PRESENT -DROCKSDB_FALLOCATE_PRESENT -DROCKSDB_RANGESYNC_PRESENT)
case "$(uname -m)" in
  x86_64) flags+=(-msse2) ;;
  aarch64) flags+=(-march=armv8-a+crc+crypto) ;;
esac

# util/build_version.cc comes from the crate's own folder, with the version filled in.
units=12
grep -vx 'util/build_version.cc' "$sources/rocksdb_lib_sources.txt" | sed '/^[[:space:]]*$/d' |
  awk -v units=$units -v work="$work" -v from="$sources/rocksdb" \
    '{ print "#include \"" from "/" $1 "\"" > (work "/unit-" (NR - 1) % units ".cc") }'
cp "$sources/build_version.cc" "$work/unit-version.cc"

compile() {
  "${CXX:-c++}" "${FLAGS[@]}" -c "$1" -o "${1%.cc}.o"
}
printf '%s\n' "${flags[@]}" > "$work/flags"
export work
export -f compile
find "$work" -name 'unit-*.cc' -print0 |
  xargs -0 -n1 -P"$(nproc)" bash -c 'mapfile -t FLAGS < "$work/flags"; compile "$1"' _

ar crs "$work/librocksdb.a" "$work"/unit-*.o
# A rename, so that an interrupted run leaves no partial archive under the final name.
mv "$work/librocksdb.a" "$out/librocksdb.a"
