"""Sessions of a game's own: the token is a JSON Web Token that the game's server has signed.

It needs PyJWT beside fastimd, and a secret that the game's server shares. The third line prints a
token for user 1 and group 7 that is good for an hour:

    .venv/bin/pip install "PyJWT>=2.10,<3"
    export JWT_SECRET=$(openssl rand -base64 32)
    .venv/bin/python examples/hooks/jwt_sessions.py 1 7
    PYTHONPATH=examples/hooks FASTIMD_HOOKS__HANDLER=jwt_sessions:Sessions .venv/bin/fastimd

To try it, give the token to the test page's tab "Raw". The tab "Chat" and ``fastimd chat`` log in
at fastimd, whose own tokens are no good here.

The token's claims: ``sub`` is the user id, ``exp`` when it ends, and ``groups``, if it is there,
lists the groups that the user may enter, read and write (the group list shows the newest message of
every group that the user has joined before).
"""

from __future__ import annotations

import os
import sys
import time

import jwt

from fastimd.hooks import Action, Refused

LEAST_SECRET_BYTES = 32
"""What RFC 7518 section 3.2 asks of a key for HS256."""


class Sessions:
    """fastimd makes one when it starts; without a secret it does not start."""

    def __init__(self) -> None:
        self._secret = os.environ.get("JWT_SECRET", "")
        if len(self._secret) < LEAST_SECRET_BYTES:
            raise ValueError(f"JWT_SECRET must have {LEAST_SECRET_BYTES} characters or more")

    async def authorize(self, user_id: str, token: str, action: Action, group_id: str) -> bool:
        try:
            claims = jwt.decode(
                token,
                self._secret,
                algorithms=["HS256"],  # the token's own word about this must not count
                options={"require": ["exp", "sub"]},
            )
        except jwt.InvalidTokenError:
            return False  # not signed by us, or ended: the client logs in again
        if claims["sub"] != user_id:
            return False
        if group_id and group_id not in claims.get("groups", [group_id]):
            raise Refused("not your group")  # logged in, but not allowed
        return True


def main() -> None:
    if len(sys.argv) < 2 or "JWT_SECRET" not in os.environ:
        sys.exit("usage: JWT_SECRET=SECRET jwt_sessions.py USER [GROUP …]")
    user, *groups = sys.argv[1:]
    claims = {"sub": user, "exp": int(time.time()) + 3600, "groups": groups}
    print(jwt.encode(claims, os.environ["JWT_SECRET"], algorithm="HS256"))


if __name__ == "__main__":
    main()
