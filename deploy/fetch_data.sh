#!/usr/bin/env bash
# Fetches a data set from its publisher into DATA_ROOT/NAME, where workers look for it:
#   deploy/fetch_data.sh NAME DATA_ROOT
# `ham-trainer data list` shows the names, `ham-trainer data urls NAME` what is fetched. May be stopped at any time and
# run again: it goes on where it was. Every file is checked against the published MD5; the data set appears whole or not
# at all. Nothing is converted. Needs curl, tar and md5sum.
#   HAM_TRAINER      the ham-trainer to ask (default: that of this build, then that on the PATH)
#   HAM_FETCH_TABLE  a file to read instead of asking it, in the format of `ham-trainer data urls`
#   HAM_FETCH_BASE   a mirror: files are fetched from HAM_FETCH_BASE/FILE
set -euo pipefail

say() { echo "fetch_data: $*" >&2; }
fail() { say "$*"; exit 1; }

[ $# -eq 2 ] || { sed -n '2,10p' "$0"; exit 2; }
name=$1
root=$2
[[ $name =~ ^[a-z0-9-]+$ ]] || fail "\"$name\" is no name of a data set"
for tool in curl tar md5sum flock; do
  command -v "$tool" >/dev/null || fail "$tool is not installed"
done

table() {
  if [ -n "${HAM_FETCH_TABLE:-}" ]; then
    cat "$HAM_FETCH_TABLE"
    return
  fi
  local trainer=${HAM_TRAINER:-$(dirname "$0")/../build/bin/ham-trainer}
  [ -x "$trainer" ] || trainer=$(command -v ham-trainer) || fail "there is no ham-trainer: build it, or set HAM_TRAINER"
  "$trainer" data urls "$name"
}

files=$(table) || exit 1
target=$root/$name
[ ! -e "$target" ] || fail "$target is there; see what it is with ham-trainer data inspect $target, or remove it"
work=$root/.fetch-$name
mkdir -p "$work"
exec 9>"$work/lock"
flock -n 9 || fail "another fetch of $name into $root is running"

is_right() {  # FILE MD5
  [ -f "$1" ] && { [ "$2" = - ] || [ "$(md5sum "$1" | cut -d' ' -f1)" = "$2" ]; }
}

fetch() {  # URL MD5 FILE
  local url=$1 md5=$2 file=$3 status=0
  if [ "$md5" != - ] && is_right "$file.part" "$md5"; then
    mv "$file.part" "$file"
    return
  fi
  say "fetching $url"
  curl -fsSL --retry 5 --retry-connrefused -C - -o "$file.part" "$url" || status=$?
  if [ "$status" -eq 33 ] || [ "$status" -eq 36 ]; then  # the server cannot resume
    rm -f "$file.part"
    status=0
    curl -fsSL --retry 5 --retry-connrefused -o "$file.part" "$url" || status=$?
  fi
  [ "$status" -eq 0 ] || fail "fetching $url failed (curl's status $status); run this again to go on"
  if ! is_right "$file.part" "$md5"; then
    local got
    got=$(md5sum "$file.part" | cut -d' ' -f1)
    rm -f "$file.part"
    fail "$url has MD5 $got, not $md5: it was damaged on the way or is another file; run this again"
  fi
  [ "$md5" != - ] || say "no digest of $url is published: it was not verified"
  mv "$file.part" "$file"
}

rm -rf "$work/new"
mkdir "$work/new"
while read -r url md5 folder; do
  [ -n "$url" ] || continue
  base=${url##*/}
  [ -z "${HAM_FETCH_BASE:-}" ] || url=$HAM_FETCH_BASE/$base
  is_right "$work/$base" "$md5" || fetch "$url" "$md5" "$work/$base"
  if [ "$folder" = - ]; then
    ln "$work/$base" "$work/new/$base"
  else
    tar -xzf "$work/$base" -C "$work/new" --no-same-owner --strip-components=1 "$folder"
  fi
done <<<"$files"
[ -n "$(ls -A "$work/new")" ] || fail "the table has no files of $name"
sync -f "$work/new"
mv -T "$work/new" "$target"
rm -rf "$work"
say "$target is complete"
