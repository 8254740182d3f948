"""Failures of enrolment over a serial cable."""

from __future__ import annotations

from argosy_common.errors.base import ArgosyError, Fault


class SerialPortMissing(ArgosyError):
    """There is no such port."""

    code = "serial-port-missing"
    exit_code = 100
    fault = Fault.OPERATOR
    template = "There is no serial port {port}."
    remedy = "Plug in the cable and look with `ls /dev/ttyUSB* /dev/ttyACM*`, or name another port."


class SerialPortDenied(ArgosyError):
    """The port belongs to others."""

    code = "serial-port-denied"
    exit_code = 101
    fault = Fault.OPERATOR
    template = "This user may not open the serial port {port}."
    remedy = "Join its group (`sudo usermod -aG dialout $USER`, then log in anew), or use sudo."


class SerialPortBusy(ArgosyError):
    """Another program has the port."""

    code = "serial-port-busy"
    exit_code = 102
    fault = Fault.OPERATOR
    template = "Another program has the serial port {port} open."
    remedy = "Close it (screen, minicom, ModemManager, another station); `fuser -v {port}` tells which it is."


class SerialPortUnusable(ArgosyError):
    """The port cannot be used as a serial port."""

    code = "serial-port-unusable"
    exit_code = 103
    fault = Fault.OPERATOR
    template = "{port} cannot be used as a serial port: {why}."
    remedy = "Name a serial port, /dev/ttyUSB0 for instance, and a baud rate that it knows."


class SerialSilent(ArgosyError):
    """Not a single byte came."""

    code = "serial-silent"
    exit_code = 104
    fault = Fault.NETWORK
    template = "Nothing came over {port}, not a single byte."
    remedy = (
        "Check that the board has power and runs `argosy-device serve-serial`, that this is its port, and that the "
        "cable carries data with RX and TX crossed. Then run the same command again."
    )


class SerialGarbled(ArgosyError):
    """Bytes came, and no frame in them."""

    code = "serial-garbled"
    exit_code = 105
    fault = Fault.NETWORK
    template = "{bytes} bytes came over {port}, and no frame of Argosy in them."
    remedy = (
        "Give both ends the same --baud; if they have it, a login console uses the port (`systemctl disable --now "
        "serial-getty@…` on the board), or the cable picks up noise. Then run the same command again."
    )


class SerialWrongAnswers(ArgosyError):
    """Frames came, and none of them answers."""

    code = "serial-wrong-answers"
    exit_code = 106
    fault = Fault.PEER
    template = "{frames} frames came over {port}, and none of them answers what was asked."
    remedy = (
        "The port sends back what it is sent (a loopback plug, a terminal with echo), or another station uses the "
        "cable. Mend that, then run the same command again."
    )


class SerialUnplugged(ArgosyError):
    """The port went away while it was in use."""

    code = "serial-unplugged"
    exit_code = 107
    fault = Fault.NETWORK
    template = "The serial port {port} went away: {why}."
    remedy = "Plug it in and run the same command again: nothing is half done, and the token is not used a second time."


class SerialStopped(ArgosyError):
    """The board answered, and then no more."""

    code = "serial-stopped"
    exit_code = 108
    fault = Fault.NETWORK
    template = "The board on {port} answered, and then no more: {why}."
    remedy = (
        "Check its power and the cable, then run the same command again: nothing is half done, and the token is not "
        "used a second time."
    )


class SerialMessageInvalid(ArgosyError):
    """A message came through whole and makes no sense."""

    code = "serial-message-invalid"
    exit_code = 109
    fault = Fault.PEER
    template = "What came over the serial cable cannot be used: {why}."
    remedy = "Bring the board and the station to the same version of Argosy."


class SiteDiffers(ArgosyError):
    """The token puts boards into another site."""

    code = "site-differs"
    exit_code = 98
    fault = Fault.OPERATOR
    template = "The token puts the board into the site {found}, and the command says {wanted}. The board is as it was."
    remedy = "Make a token with `argosy token create --site {wanted}`, or leave --site out."


class SerialPortsNone(ArgosyError):
    """A bench without a single port."""

    code = "serial-ports-none"
    exit_code = 99
    fault = Fault.OPERATOR
    template = "There is no serial port here: no /dev/ttyUSB* and no /dev/ttyACM*."
    remedy = "Plug in the cables, or name the ports."
