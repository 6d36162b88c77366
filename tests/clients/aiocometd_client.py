"""The `aiocometd-ng` client. Prints one JSON object per line: what happened to the connection, and each event as received.

Usage: python3 aiocometd_client.py --url URL --user U --password P [--transport long-polling|websocket|any] --channels /a,/b [--ack]
It disconnects and ends when its standard input ends.
"""

import argparse
import asyncio
import base64
import json
import logging
import os
import sys
import threading
from urllib.parse import urlsplit, urlunsplit

from aiocometd_ng import AuthExtension, Client, ConnectionType, Extension
from aiocometd_ng.exceptions import AiocometdException, ServerError


def say(what, **rest):
    line = {"what": what} | {name: value for name, value in rest.items() if value is not None}
    print(json.dumps(line), flush=True)


class Basic(AuthExtension):
    """The credentials, on every request and upgrade."""

    def __init__(self, user, password):
        self.header = "Basic " + base64.b64encode(f"{user}:{password}".encode()).decode()

    async def outgoing(self, payload, headers):
        headers["Authorization"] = self.header

    async def incoming(self, payload, headers=None):
        pass

    async def authenticate(self):
        pass


class Ack(Extension):
    """CometD's acknowledgements, as its manual describes them: the library has none."""

    def __init__(self):
        self.is_on = False
        self.batch = 0

    async def outgoing(self, payload, headers):
        for message in payload:
            if message["channel"] == "/meta/handshake":
                self.is_on, self.batch = False, 0
                message["ext"] = message.get("ext", {}) | {"ack": True}
            elif message["channel"] == "/meta/connect" and self.is_on:
                message["ext"] = message.get("ext", {}) | {"ack": self.batch}

    async def incoming(self, payload, headers=None):
        for message in payload:
            said = message.get("ext", {}).get("ack")
            if message["channel"] == "/meta/handshake":
                self.is_on = said is True or isinstance(said, dict) and said.get("enabled") is True
            elif message["channel"] == "/meta/connect" and isinstance(said, int):
                self.batch = said


class Seconds(Extension):
    """The library waits as many seconds as the server advises milliseconds."""

    async def outgoing(self, payload, headers):
        pass

    async def incoming(self, payload, headers=None):
        for message in payload:
            advice = message.get("advice", {})
            if "interval" in advice:
                advice["interval"] /= 1000


class Watch(Extension):
    """Says what becomes of the connection. The library keeps that to itself, but an extension sees every message."""

    def __init__(self):
        self.is_connected = False
        self.is_asked = False
        self.transport = None

    def broken(self, error=None):
        if self.is_connected:
            say("broken", error=error)
        self.is_connected = False

    async def outgoing(self, payload, headers):
        for message in payload:
            if message["channel"] == "/meta/connect":
                # Asked again before the answer: the library waits a second after a lost connection, and asks again.
                if self.is_asked:
                    self.broken()
                self.is_asked = True
                self.transport = message["connectionType"]

    async def incoming(self, payload, headers=None):
        for message in payload:
            channel, successful, error = message["channel"], message.get("successful"), message.get("error")
            if channel == "/meta/handshake":
                say("handshake", successful=successful, error=error)
            elif channel == "/meta/subscribe":
                say("subscribed", successful=successful, channel=message.get("subscription"), error=error)
            elif channel == "/meta/connect":
                self.is_asked = False
                if not successful:
                    self.broken(error)
                elif not self.is_connected:
                    self.is_connected = True
                    say("connected", transport=self.transport)


def named(url):
    """The client drops the cookies of hosts that are addresses."""
    parts = urlsplit(url)
    return urlunsplit(parts._replace(netloc=parts.netloc.replace("127.0.0.1", "localhost")))


async def read(client):
    async for message in client:
        say("event", message=message)


async def main():
    parser = argparse.ArgumentParser()
    for name in ["url", "user", "password"]:
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--transport", default="any", choices=["long-polling", "websocket", "any"])
    parser.add_argument("--channels", default="")
    parser.add_argument("--ack", action="store_true")
    asked = parser.parse_args()
    logging.basicConfig(level=os.environ.get("COMETD_LOG", "CRITICAL").upper(), stream=sys.stderr)

    ended = asyncio.Event()
    loop = asyncio.get_running_loop()

    def wait_for_end():
        sys.stdin.read()
        loop.call_soon_threadsafe(ended.set)

    threading.Thread(target=wait_for_end, daemon=True).start()

    client = Client(
        named(asked.url),
        None if asked.transport == "any" else ConnectionType(asked.transport),
        # Any other value makes the first lost connection an error: 0.5 still gives `loop` to asyncio.wait_for.
        connection_timeout=0,
        auth=Basic(asked.user, asked.password),
        extensions=[Watch(), Seconds(), *([Ack()] if asked.ack else [])],
    )
    successful = False
    try:
        await client.open()
        for channel in filter(None, asked.channels.split(",")):
            try:
                await client.subscribe(channel)
            except ServerError:
                pass  # It is among the lines, and the connection goes on.
        reading = asyncio.create_task(read(client))
        ending = asyncio.create_task(ended.wait())
        await asyncio.wait([reading, ending], return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            reading.result()
        reading.cancel()
        await asyncio.wait_for(client.close(), 5)
        successful = True
    except (AiocometdException, asyncio.TimeoutError) as error:
        say("broken", error=str(error))
        await ended.wait()
    except TypeError as error:
        # What an HTTP error with a JSON object for a body is to the library, which expects an array whatever the status.
        say("handshake", successful=False, error=str(error))
        await ended.wait()
    say("disconnected", successful=successful)


asyncio.run(main())
