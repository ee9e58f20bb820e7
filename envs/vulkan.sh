#!/bin/sh
# Mesa's Vulkan driver for the CPU, by apt, as root. Debian 12's own (22.3) is too old: it comes from the backports of the
# mirror that apt uses already.
set -eu
export DEBIAN_FRONTEND=noninteractive
. /etc/os-release
apt-get update -qq
if [ "${VERSION_CODENAME:-}" = bookworm ]; then
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' 'Codename: bookworm' | sort -u | head -n 1)
    echo "deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] ${mirror} bookworm-backports main" \
        >/etc/apt/sources.list.d/bookworm-backports.list
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends libvulkan1
    apt-get install -y -qq --no-install-recommends -t bookworm-backports mesa-vulkan-drivers
else
    apt-get install -y -qq --no-install-recommends libvulkan1 mesa-vulkan-drivers
fi
