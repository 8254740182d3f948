"""Boards made of files: what the kernel and the system show of real ones, as far as we read it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

Files = Mapping[str, str]


def _cpuinfo(part: str, cores: int, *more: str) -> str:
    each = "processor\t: {}\nCPU implementer\t: 0x41\nCPU part\t: " + part + "\n\n"
    return "".join(each.format(number) for number in range(cores)) + "\n".join(more) + "\n"


DEBIAN = {"etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\nVERSION_ID="12"\n'}
CGROUPS = "#subsys_name\thierarchy\tnum_cgroups\tenabled\ncpuset\t0\t90\t1\nmemory\t0\t90\t{}\n"

PI_4: Files = {
    **DEBIAN,
    "proc/device-tree/model": "Raspberry Pi 4 Model B Rev 1.4\0",
    "proc/device-tree/serial-number": "10000000a1b2c3d4\0",
    "proc/device-tree/compatible": "raspberrypi,4-model-b\0brcm,bcm2711\0",
    "proc/cpuinfo": _cpuinfo("0xd08", 4, "Serial\t\t: 10000000a1b2c3d4", "Model\t\t: Raspberry Pi 4 Model B Rev 1.4"),
    "proc/meminfo": "MemTotal:        3884356 kB\nMemFree:          100000 kB\n",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-v8\n",
    "proc/cgroups": CGROUPS.format(0),
    "dev/dri/renderD128": "",
    "sys/bus/usb/devices/2-1/idVendor": "1a6e\n",
    "sys/bus/usb/devices/2-1/idProduct": "089a\n",
    "sys/bus/usb/devices/1-1/idVendor": "046d\n",
    "sys/bus/usb/devices/1-1/idProduct": "c31c\n",
}
PI_5: Files = {
    **DEBIAN,
    "proc/device-tree/model": "Raspberry Pi 5 Model B Rev 1.0\0",
    "proc/device-tree/serial-number": "5fa1c3e2d4b60718\0",
    "proc/device-tree/compatible": "raspberrypi,5-model-b\0brcm,bcm2712\0",
    "proc/cpuinfo": _cpuinfo("0xd0b", 4),
    "proc/meminfo": "MemTotal:        8257000 kB\n",
    "proc/sys/kernel/osrelease": "6.6.31+rpt-rpi-2712\n",
    "proc/cgroups": CGROUPS.format(1),
    "dev/hailo0": "",
    "dev/dri/renderD128": "",
}
JETSON: Files = {
    "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.4 LTS"\n',
    "etc/nv_tegra_release": "# R36 (release), REVISION: 3.0, GCID: 36191598, BOARD: generic, EABI: aarch64\n",
    "proc/device-tree/model": "NVIDIA Jetson Orin Nano Developer Kit\0",
    "proc/device-tree/serial-number": "1422323034567\0",
    "proc/device-tree/compatible": "nvidia,p3768-0000+p3767-0005\0nvidia,tegra234\0",
    "proc/cpuinfo": _cpuinfo("0xd42", 6),
    "proc/meminfo": "MemTotal:        7802000 kB\n",
    "proc/sys/kernel/osrelease": "5.15.136-tegra\n",
    "proc/cgroups": CGROUPS.format(1),
    "dev/nvhost-gpu": "",
    "dev/nvmap": "",
    "sys/bus/i2c/drivers/ina3221/1-0040/hwmon/hwmon1/in1_input": "5016\n",
}
X86: Files = {
    **DEBIAN,
    "etc/machine-id": "0123456789abcdef0123456789abcdef\n",
    "proc/cpuinfo": "processor\t: 0\nmodel name\t: Intel(R) N100\n\nprocessor\t: 1\nmodel name\t: Intel(R) N100\n",
    "proc/meminfo": "MemTotal:       16000000 kB\n",
    "proc/sys/kernel/osrelease": "6.1.0-21-amd64\n",
    "proc/cgroups": CGROUPS.format(1),
    "sys/class/dmi/id/sys_vendor": "ACME\n",
    "sys/class/dmi/id/product_name": "Box 3000\n",
    "sys/class/dmi/id/product_uuid": "4c4c4544-0042-3510-8052-b4c04f4e3732\n",
    "dev/nvidia0": "",
    "dev/apex_0": "",
    "sys/class/powercap/intel-rapl:0/energy_uj": "262143\n",
}


def put_board(root: Path, *files: Files) -> Path:
    """Write a board's files under `root`; later ones replace earlier ones. Return `root`."""
    for name, text in {name: text for each in files for name, text in each.items()}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root
