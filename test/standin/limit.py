"""A rate limit for the whole account: a token bucket in front of every DELETE.

The bucket holds up to burst tokens and gains per_second of them each second; a
request that finds none is answered at once with the limit's status.
"""

import time

import bodies
from message import REASONS, Answer


class RateLimit:
    def __init__(self, per_second, burst=None, retry_after="1", status=429):
        self.per_second = float(per_second)
        self.burst = float(burst if burst is not None
                           else max(1.0, self.per_second))
        self.tokens = self.burst
        self.filled_at = time.monotonic()
        self.refusal = self._refusal(status, retry_after)

    def _refusal(self, status, retry_after):
        headers = [("X-RateLimit-Limit", "%g" % self.burst),
                   ("X-RateLimit-Remaining", "0")]
        if retry_after is not None:
            headers.append(("Retry-After", str(retry_after)))
        body = bodies.for_status(status, REASONS.get(status, "Unknown"))
        return Answer(status, body, headers=headers)

    def take(self):
        """Take a token and return None, or return the refusal."""
        now = time.monotonic()
        self.tokens = min(self.burst, self.tokens +
                          (now - self.filled_at) * self.per_second)
        self.filled_at = now
        if self.tokens < 1:
            return self.refusal
        self.tokens -= 1
        return None
