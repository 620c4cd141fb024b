#!/bin/sh
# SPDX-License-Identifier: GPL-3.0-or-later
#
# Installs what this module needs from Debian or Ubuntu, where it is missing.
#
# usage: system-packages.sh [deb] [drivers] [grc] [test]
#   deb    what `make deb` needs beside a build
#   grc    what gnuradio-companion needs to open its window
#   test   what presses its buttons without a screen, and what else only tests and checks of style use
set -eu

missing=
need() { # need PACKAGE TEST…: the test succeeds where the package is there
    package=$1
    shift
    "$@" > /dev/null 2>&1 || missing="$missing $package"
}
has_gtk() { /usr/bin/python3 -c 'import gi, cairo; gi.require_version("Gtk", "3.0"); gi.require_foreign("cairo")'; }
has_browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
# Ubuntu's is a snap, under another name.
browser=chromium
! grep -qs '^ID=ubuntu' /etc/os-release || browser=chromium-browser
has_alsa_plugin() { ls /usr/lib/*/alsa-lib/libasound_module_pcm_"$1".so; }
has_soapy_remote() { ls /usr/lib/*/SoapySDR/modules*/libremoteSupport.so; }
has_font() { fc-list | grep -q .; }

need gnuradio /usr/bin/python3 -c 'import gnuradio.gr'
need gnuradio-dev test -e /usr/include/gnuradio/block.h
need libeigen3-dev test -d /usr/include/eigen3
need cmake command -v cmake
need g++ command -v g++
need python3-venv /usr/bin/python3 -c 'import ensurepip'
for group in "$@"; do
    case $group in
        deb)
            need file command -v file
            need dpkg-dev command -v dpkg-shlibdeps
            ;;
        grc)
            need "gir1.2-gtk-3.0 python3-gi-cairo" has_gtk
            need fonts-dejavu-core has_font
            need xterm command -v xterm
            ;;
        test)
            need xvfb command -v Xvfb
            need xdotool command -v xdotool
            need imagemagick command -v import
            need man-db command -v man
            need clang-format command -v clang-format
            need "$browser" has_browser
            need fonts-dejavu-core has_font
            need pulseaudio command -v pulseaudio
            need pulseaudio-utils command -v pactl
            need libasound2-plugins has_alsa_plugin pulse
            need libhamlib-utils command -v rigctld
            need libboost-test-dev test -e /usr/include/boost/test/unit_test.hpp
            ;;
        drivers)
            need libsoapysdr-dev test -e /usr/include/SoapySDR/Device.hpp
            need soapysdr-module-remote has_soapy_remote
            need soapyremote-server command -v SoapySDRServer
            ;;
        *)
            echo "system-packages.sh: '$group' is none of deb, drivers, grc, test" >&2
            exit 2
            ;;
    esac
done
[ -n "$missing" ] || exit 0

if ! command -v apt-get > /dev/null; then
    echo "please install GNU Radio 3.10 with its development files, cmake, a C++ compiler and Python's venv (missing:$missing)" >&2
    exit 1
fi
sudo=
[ "$(id -u)" = 0 ] || sudo=sudo
echo "installing$missing …"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
{
    $sudo apt-get update -qq
    $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing
} > "$log" 2>&1 || {
    cat "$log" >&2
    exit 1
}
