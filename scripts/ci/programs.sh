#!/usr/bin/env bash
# Bring the programs without which tests are skipped: a browser for report.html and a LaTeX for the tables. Installs
# Debian's packages where apt-get is and may; else it prints one line a program and the tests say why they skip.
set -euo pipefail

updated=
bring() { # PROGRAM PACKAGE...
    local program=$1 reason
    shift
    command -v "$program" >/dev/null && return
    reason=
    if [ "$(id -u)" != 0 ] || ! command -v apt-get >/dev/null; then
        reason="apt-get and root are needed"
    else
        export DEBIAN_FRONTEND=noninteractive
        [ -n "$updated" ] || timeout 300 apt-get -qq -o DPkg::Lock::Timeout=120 update </dev/null >/dev/null 2>&1 || true
        updated=yes
        timeout 600 apt-get -qq -o DPkg::Lock::Timeout=120 install -y --no-install-recommends "$@" \
            </dev/null >/dev/null 2>&1 || reason="apt-get could not install $*"
    fi
    [ -z "$reason" ] || echo "no $program: $reason; its tests are skipped"
}

bring chromium chromium
bring pdflatex texlive-latex-base texlive-latex-recommended
