# SPDX-License-Identifier: GPL-3.0-or-later
"""Push to talk: a command that switches a transceiver to transmit, and back whatever happens.

The transmitter must never stay on. So what switches it off is started before it is switched on: a shell, in a session of its own,
that reads from a pipe which nobody writes to. The pipe ends when this process closes it, exits, crashes or is killed, and then
the shell runs the command that switches off.
"""

import shlex
import subprocess
import sys
import threading
import time

from diffjscc.errors import one_line

#: Seconds that a command may take.
DEADLINE = 5.0

#: Where a command shows it, 1 or 0 is put in this place; otherwise behind the command.
PLACE = "{}"

#: Attempts to switch off, with a second in between.
ATTEMPTS = 3

_OFF = """
cat > /dev/null
for attempt in $(seq {attempts}); do
    said=$(timeout {deadline:g} sh -c {command} 2>&1) && case $said in *"{error}"*) ;; *) exit 0 ;; esac
    sleep 1
done
echo "$said" >&2
exit 1
"""

#: Of a command that may have switched on all the same.
_LATE = "took more than"

#: What rigctl says where it fails, with exit status 0.
_ERROR = ": error ="


class Key:
    """The key of a transmitter, for `burst_lead`.

    command  a shell's command, such as 'rigctl -m 1035 -r /dev/ttyUSB0 T'; 1 or 0 is added, or takes the place of {}
    tail     seconds for which the transmitter stays on after the last sample: sound cards have buffers, and buses take time
    warn     called with a line where the transmitter could not be switched off

    `close` must be called at the end; leaving a ``with`` block does. Raises ValueError for an empty command.
    """

    def __init__(self, command, tail, warn=lambda line: print(line, file=sys.stderr, flush=True)):
        if not command.strip():
            raise ValueError("ptt: the command is empty: expected one such as 'rigctl -m 1035 -r /dev/ttyUSB0 T'")
        self._command, self._tail, self._warn = command, tail, warn
        self._changed = threading.Condition()
        self._guard, self._end, self._closed = None, 0.0, False
        #: Why the transmitter could not be switched on or off; None where it could.
        self.error = None
        self._thread = threading.Thread(target=self._watch, name="ptt", daemon=True)
        self._thread.start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def press(self):
        """Switches the transmitter on, where it is off. Returns whether it is on; if not, ``error`` says why."""
        with self._changed:
            if self._closed or self.error is not None:
                return False
            if self._guard is None:
                self._guard = self._start_guard()
                self._end = time.monotonic()
                problem = self._run(1)
                if problem is not None:
                    self.error = ValueError(f"ptt: {problem}; nothing was sent")
                    # What says that it failed did not switch on.
                    self._release(quiet=_LATE not in problem)
                    return False
            # Time for the first samples.
            self._end = max(self._end, time.monotonic()) + self._tail
            self._changed.notify()
            return True

    def add(self, seconds):
        """Tells that samples for ``seconds`` went to the sound card, which plays them after those before."""
        with self._changed:
            self._end = max(self._end, time.monotonic() + self._tail) + seconds

    def close(self):
        """Switches the transmitter off at once."""
        with self._changed:
            self._closed = True
            self._release()
            self._changed.notify()
        self._thread.join(DEADLINE)

    def wait(self):
        """Returns when the transmitter was switched off after the last sample."""
        with self._changed:
            self._changed.wait_for(lambda: self._guard is None)

    def _watch(self):
        with self._changed:
            while not self._closed:
                left = self._end - time.monotonic() if self._guard is not None else None
                if left is not None and left <= 0:
                    self._release()
                else:
                    self._changed.wait(left)

    def _start_guard(self):
        script = _OFF.format(attempts=ATTEMPTS, deadline=DEADLINE, error=_ERROR, command=shlex.quote(self._with(0)))
        return subprocess.Popen(
            ["sh", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, start_new_session=True
        )

    def _release(self, quiet=False):
        if self._guard is None:
            return
        guard, self._guard = self._guard, None
        try:
            _, said = guard.communicate(timeout=ATTEMPTS * (DEADLINE + 1) + 1)
            problem = f"'{self._with(0)}' failed{_reason(said)}" if guard.returncode else None
        except subprocess.TimeoutExpired:
            problem = f"'{self._with(0)}' does not end"
        if problem is not None and not quiet:
            self.error = self.error or ValueError(f"ptt: {problem}")
            self._warn(f"ptt: {problem}: THE TRANSMITTER MAY STILL BE ON, switch it off by hand")
        self._changed.notify_all()

    def _run(self, state):
        """Why the command failed; None where it did not."""
        command = self._with(state)
        try:
            done = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, capture_output=True, timeout=DEADLINE)
        except subprocess.TimeoutExpired:
            return f"'{command}' {_LATE} {DEADLINE:g} s"
        said = done.stderr + done.stdout
        return f"'{command}' failed{_reason(said)}" if done.returncode or _ERROR.encode() in said else None

    def _with(self, state):
        return self._command.replace(PLACE, str(state)) if PLACE in self._command else f"{self._command} {state}"


def _reason(said):
    text = one_line(said.decode(errors="replace").strip(), 160)
    return f" ({text})" if text else ""
