#!/bin/sh
# autogen.sh: makes ./configure out of configure.ac, Makefile.am and the sources
# there are. Needs autoconf, automake and pkg-config (tools/setup installs them).
set -eu
cd "$(dirname "$0")"
tools/sources
mkdir -p build-aux
exec autoreconf --install --warnings=all,no-portability
