"""Prints what happens to the devices and calls of one user, as long as it runs.

    pip install -r requirements.txt
    python3 events.py http://localhost:8080 supervisor PASSWORD

The gateway, the user and the password may also come from UNDERTONE_URL, UNDERTONE_USER and UNDERTONE_PASSWORD.
"""

import argparse
import asyncio
import base64
import json
import logging
import os
import signal
import sys
from contextlib import suppress
from datetime import datetime, timezone

from aiocometd_ng import AuthExtension, Client, ConnectionType, Extension
from aiocometd_ng.exceptions import ServerError, TransportError

CHANNELS = ["/v2/me/devices", "/v2/me/calls"]
PAUSE = 2  # seconds, before a client that gave up is replaced


class BasicAuth(AuthExtension):
    def __init__(self, user, password):
        credentials = base64.b64encode(f"{user}:{password}".encode()).decode()
        self.header = f"Basic {credentials}"

    async def outgoing(self, payload, headers):
        headers["Authorization"] = self.header

    async def incoming(self, payload, headers=None):
        pass

    async def authenticate(self):
        pass


class Replay(Extension):
    """Each event has a number. When the session was lost (the gateway was restarted, or we were away for too long),
    the subscriptions of the next session ask for what came after the last number. The first ones ask for nothing
    that was before (-1), and their answer says after which number they begin."""

    def __init__(self):
        self.last = -1

    async def incoming(self, payload, headers=None):
        for message in payload:
            said = message.get("ext", {}).get("replay")
            if isinstance(said, int):
                self.last = max(self.last, said)
            elif message["channel"] == "/meta/subscribe" and isinstance(said, dict) and self.last == -1:
                self.last = said.get("last", -1)

    async def outgoing(self, payload, headers):
        for message in payload:
            if message["channel"] == "/meta/subscribe":
                message["ext"] = message.get("ext", {}) | {"replay": self.last}


class Seconds(Extension):
    """The client waits as many seconds as the gateway advises milliseconds."""

    async def incoming(self, payload, headers=None):
        for message in payload:
            advice = message.get("advice", {})
            if "interval" in advice:
                advice["interval"] /= 1000

    async def outgoing(self, payload, headers):
        pass


def say(line):
    print(line, flush=True)


def describe_device(device):
    parts = [device.get("deviceState"), device.get("userState", {}).get("displayName")]
    if device.get("doNotDisturb") == "On":
        parts.append("do not disturb")
    if "forwardTo" in device:
        parts.append(f"forwards to {device['forwardTo']}")
    if monitoring := device.get("supervisorMonitoringState"):
        target = monitoring.get("targetDeviceUri", "")
        parts.append(f"{monitoring.get('state')} {target} ({monitoring.get('mode')}, {monitoring.get('scope')})")
    return f"device {device.get('phoneNumber')}: {', '.join(filter(None, parts))}"


def describe_call(data):
    call = data["call"]
    others = " and ".join(participant.get("phoneNumber", "?") for participant in call.get("participants", []))
    return f"call {call.get('id')} {data.get('notificationType')}: {call.get('state')} with {others or 'nobody'}"


def describe(data):
    match data.get("messageType"):
        case "DeviceStateChangeMessage":
            return "; ".join(describe_device(device) for device in data["devices"])
        case "CallStateChangeMessage":
            return describe_call(data)
        case "ErrorMessage":
            return f"failed: {data.get('errorMessage')} ({data.get('devicePath')})"
        case _:
            return json.dumps(data)


def print_event(message):
    say(f"event {datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%SZ} {describe(message['data'])}")


async def listen(url, user, password, transport, replay):
    client = Client(
        url,
        transport,
        auth=BasicAuth(user, password),
        extensions=[Seconds(), replay],
        # Wait for the gateway as long as it takes. Other values do not work on Python 3.10 and later.
        connection_timeout=0,
    )
    async with client:
        say(f"connected by {client.connection_type.value}")
        for channel in CHANNELS:
            await client.subscribe(channel)
        # The client comes back by itself after a lost connection, and subscribes again after a lost session.
        async for message in client:
            print_event(message)


async def main():
    parser = argparse.ArgumentParser(description="Prints the events of one user.")
    parser.add_argument("url", nargs="?", default=os.environ.get("UNDERTONE_URL", "http://localhost:8080"))
    parser.add_argument("user", nargs="?", default=os.environ.get("UNDERTONE_USER"))
    parser.add_argument("password", nargs="?", default=os.environ.get("UNDERTONE_PASSWORD"))
    parser.add_argument("--transport", choices=[kind.value for kind in ConnectionType], default="long-polling")
    asked = parser.parse_args()
    if not asked.user or not asked.password:
        parser.error("a user and a password are needed")

    # Cancelled, it still says good-bye to the gateway.
    for number in [signal.SIGINT, signal.SIGTERM]:
        asyncio.get_running_loop().add_signal_handler(number, asyncio.current_task().cancel)

    # The client keeps no cookies of hosts that are addresses.
    base = asked.url.rstrip("/").replace("//127.0.0.1", "//localhost")
    replay = Replay()
    while True:
        try:
            await listen(f"{base}/api/v2/notifications", asked.user, asked.password, ConnectionType(asked.transport), replay)
        except ServerError as error:
            if error.error_code == 403:
                sys.exit(f"The gateway refuses {asked.user}: {error}")
            say(f"the gateway ended the session: {error}")
        except TransportError as error:
            say(f"no connection: {error}")
        await asyncio.sleep(PAUSE)


# The client leaves its cancelled poll to asyncio, which would print it at the end.
logging.getLogger("asyncio").setLevel(logging.CRITICAL)
with suppress(asyncio.CancelledError):
    asyncio.run(main())
