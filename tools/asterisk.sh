#!/usr/bin/env bash
# A real Asterisk for `just switches`: Debian's, from its unstable suite, in a folder of its own to be run by chroot. Made when it is
# missing (about 500 MB), kept between runs. Prints the folder; its version goes to standard error.
set -euo pipefail

cache="${UNDERTONE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/undertone}"
folder="$cache/asterisk"
suite=sid

cannot() { printf 'no Asterisk: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }
version() { chroot "$folder" asterisk -V; }

# One maker at a time; the others find what it has made.
[ "$(id -u)" = 0 ] || cannot "debootstrap and chroot need root"
mkdir -p "$cache"
exec 9>"$cache/asterisk.lock"
flock 9

if ! [ -d "$folder" ]; then
  have apt-get || cannot "there is no apt-get here; make $folder by hand: debootstrap --variant=minbase --include=asterisk $suite"
  if ! have debootstrap; then
    apt-get update -qq >&2 || cannot "apt-get update has failed"
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends debootstrap >&2 || cannot "debootstrap can not be installed"
  fi

  # The mirror, proxy and keys are those of this system's own apt.
  mirror="$(apt-get indextargets --format '$(LABEL) $(COMPONENT) $(REPO_URI)' 'Created-By: Packages' \
    | sed -n 's/^Debian main //p' | head -n 1)"
  [ -n "$mirror" ] || cannot "no source of this system's apt is Debian's main; apt-get update first"
  for scheme in http https; do
    proxy=
    eval "$(apt-config shell proxy "Acquire::$scheme::Proxy")"
    if [ -n "$proxy" ] && [ "$proxy" != DIRECT ]; then export "${scheme}_proxy=$proxy"; fi
  done
  keys=()
  keyring=/usr/share/keyrings/debian-archive-keyring.gpg
  if [ -r "$keyring" ]; then keys=(--keyring="$keyring"); fi

  new="$folder.new"
  rm -rf --one-file-system "$new"
  echo "making $folder from $mirror $suite: some minutes" >&2
  if ! debootstrap "${keys[@]}" --variant=minbase --include=asterisk "$suite" "$new" "$mirror" >"$cache/asterisk.log" 2>&1; then
    tail -n 15 "$cache/asterisk.log" >&2
    rm -rf --one-file-system "$new"
    cannot "debootstrap $suite from $mirror has failed, see $cache/asterisk.log"
  fi
  rm -rf "$new"/var/cache/apt/archives/*.deb "$new"/var/lib/apt/lists/* "$new"/usr/share/doc "$new"/usr/share/man "$new"/usr/share/locale
  chroot "$new" asterisk -V >/dev/null || cannot "what debootstrap has made does not run, see $new"
  mv "$new" "$folder"
fi

version >&2 || cannot "$folder does not run; remove it, and it is made anew"
echo "$folder"
