"""A chat in one group of fastimd. Python 3.11 or later; pip install websockets httpx

python chat.py http://127.0.0.1:9000 GROUP USER PASSWORD
"""

import asyncio
import json
import random
import sys
import threading
from urllib.parse import quote

import httpx
from websockets.asyncio.client import connect
from websockets.exceptions import InvalidStatus, WebSocketException

FINAL_CODES = {1002, 1003, 1007, 1008, 1009}  # connecting again would end in the same way
GREETING_SECONDS = 15


class Ended(Exception):
    """The daemon does not want this client; the text says why."""


class NotLoggedIn(Exception):
    """The token is not valid any more."""


class Chat:
    def __init__(self, url, group, user, password, show, not_sent):
        self.url, self.group, self.user, self.password = url, group, user, password
        self.show = show  # called with each message once, in order
        self.not_sent = not_sent  # called with each text that the daemon does not take, and why
        self.token = ""
        self.is_logged_in = False
        self.socket = None
        self.last_ts = None  # of the newest message shown
        self.unheard = []  # said, and not yet come back
        self.failures = 0

    async def run(self):
        """Stay connected. Raises Ended when there is no use in trying again."""
        async with httpx.AsyncClient(base_url=self.url) as self.http:
            while True:
                bound = min(30, 2**self.failures)
                wait = random.uniform(0, bound)
                self.failures += 1
                try:
                    if not self.is_logged_in:
                        await self.log_in()
                    reason = await self.talk()
                    if reason.startswith("restart "):
                        wait = int(reason.split()[1]) / 1000
                except NotLoggedIn:
                    self.is_logged_in = False
                except InvalidStatus as refused:
                    check_status(refused.response.status_code, "the socket is refused")
                except (OSError, httpx.HTTPError, WebSocketException):
                    pass  # the network: try again
                await asyncio.sleep(wait)

    async def say(self, text):
        """Send a text, now or as soon as there is a connection."""
        self.unheard.append(text)
        if self.socket is not None:
            try:
                await self.socket.send(text)
            except WebSocketException:
                pass  # it is sent again after reconnecting

    async def log_in(self):
        answer = await self.post("/user/login", userId=self.user, password=self.password)
        if answer["code"] != 200:
            raise Ended(f"the login is refused: {answer['msg']}")
        self.token = answer["msg"]
        await self.post("/user/joinGroup", groupId=self.group)
        self.is_logged_in = True

    async def talk(self):
        """One connection, from its beginning to its end; returns why it was closed."""
        path = "/".join(quote(part, safe="") for part in (self.group, self.user, self.token))
        url = f"ws{self.url.removeprefix('http')}/group/chat/{path}"
        async with connect(url, max_size=None) as socket:  # a greeting may be long
            try:
                greeting = await asyncio.wait_for(socket.recv(), GREETING_SECONDS)
                await self.catch_up(read(greeting))
                self.failures = 0
                for text in self.unheard:  # it may grow meanwhile
                    await socket.send(text)
                self.socket = socket
                async for frame in socket:
                    self.take(read(frame))
            except WebSocketException:
                pass  # it is closed, and says why
            finally:
                self.socket = None
        if socket.close_code in FINAL_CODES:
            raise Ended(f"closed: {socket.close_code} {socket.close_reason}")
        return socket.close_reason or ""

    async def catch_up(self, greeting):
        """Take what came since the last connection: the greeting, and what lies before it."""
        missed = greeting["list"]
        while missed and self.last_ts is not None and missed[0]["ts"] > self.last_ts:
            named = {name: missed[0][name] for name in ("groupId", "userId", "ts")}
            answer = await self.post("/group/listOldMessage", **named, count=100)
            if not answer["data"]:
                break  # no more, or a hook keeps them to itself
            missed = [json.loads(text) for text in answer["data"]] + missed
        for message in missed:
            self.take(message)
        self.last_ts = self.last_ts or 0

    def take(self, message):
        if "code" in message:
            self.decline(message["data"], message["msg"])
            return
        if message["ts"] <= (self.last_ts or 0):
            return  # it is known
        self.last_ts = message["ts"]
        if message["userId"] == self.user:
            self.hear(message["info"])
        self.show(message)

    def hear(self, info):
        # The user said this. Texts come back in order, so one that is not known is the first,
        # changed by a hook; before anything was sent on this connection it is another device's.
        if info in self.unheard:
            self.unheard.remove(info)
        elif self.socket is not None and self.unheard:
            del self.unheard[0]

    def decline(self, text, why):
        # A hook refuses a text, or has failed.
        if text in self.unheard:
            self.unheard.remove(text)
        self.not_sent(text, why)

    async def post(self, path, **fields):
        headers = {"userId": self.user.encode(), "token": self.token.encode()}
        answer = await self.http.post(path, data=fields, headers=headers)
        check_status(answer.status_code, answer.text)
        answer.raise_for_status()
        if answer.json()["code"] == 440:
            raise NotLoggedIn
        return answer.json()


def read(frame):
    if frame == "440":
        raise NotLoggedIn
    return json.loads(frame)


def check_status(status, text):
    """Only too many requests, slowness and faults of the daemon pass by themselves."""
    if 400 <= status < 500 and status not in (408, 429):
        raise Ended(f"{status}: {text}")


async def main(url, group, user, password):
    def show(message):
        print(f"{message['userId']}: {message['info']}")

    def not_sent(text, why):
        print(f"not sent: {text} ({why})")

    chat = Chat(url, group, user, password, show, not_sent)
    running = asyncio.create_task(chat.run())
    loop = asyncio.get_running_loop()

    def read_lines():
        for line in sys.stdin:
            asyncio.run_coroutine_threadsafe(chat.say(line.rstrip("\n")), loop)
        loop.call_soon_threadsafe(running.cancel)

    threading.Thread(target=read_lines, daemon=True).start()
    await running


if __name__ == "__main__":
    if len(sys.argv) != 5:
        sys.exit("usage: chat.py http://127.0.0.1:9000 GROUP USER PASSWORD")
    try:
        asyncio.run(main(*sys.argv[1:]))
    except (asyncio.CancelledError, KeyboardInterrupt):
        pass
    except Ended as reason:
        sys.exit(str(reason))
