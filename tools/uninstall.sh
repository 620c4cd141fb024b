#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Removes what `make install` installed, what Python wrote beside it, and the folders that are empty then.
#
# usage: uninstall.sh BUILD PREFIX
set -eu
build=$1 prefix=$2 manifest=$1/install_manifest.txt
if ! [ -f "$manifest" ]; then
    echo "uninstall.sh: $manifest is not there: nothing was installed from $build" >&2
    exit 1
fi

# Folders that belong to the system even while they are empty.
is_kept() {
    case $1 in
        / | "$prefix" | /usr | /usr/local) return 0 ;;
        /usr/local/*)
            case ${1#/usr/local/} in
                bin | etc | games | include | lib | lib/python3* | man | sbin | share | share/man | src) ;;
                *) return 1 ;;
            esac
            case $1 in */dist-packages/*) return 1 ;; esac
            return 0
            ;;
    esac
    return 1
}

tr '\n' '\0' < "$manifest" | xargs -0 rm -f
rm -rf "$prefix/lib/gr-diffjscc"
rm -f "$prefix/bin/diffjscc"
sed 's|/[^/]*$||' "$manifest" | sort -ru | while read -r folder; do
    case $folder in
        # Our own folders, with bytecode and whatever else lies there.
        */diffjscc | */gnuradio-diffjscc | */gr_diffjscc-*.dist-info) rm -rf "$folder" ;;
    esac
    until is_kept "$folder"; do
        if [ -d "$folder" ]; then
            rmdir "$folder" 2> /dev/null || break
        fi
        folder=${folder%/*}
    done
done
rm -f "$manifest"
