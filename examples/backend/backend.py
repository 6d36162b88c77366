"""A telephony backend of Undertone in Python: `python3 backend.py --help`.

It serves the contract undertone.telephony.v1 over gRPC. Its telephones are simulated, and are moved by
lines on standard input: call 7001 5001, answer 5001, hangup 7001, phone 5005 busy. Each is answered on
standard output with one line, "ok" or "error" and why.
"""

import argparse
import asyncio
import collections
import sys
import time

import grpc
from contract import Refused, check, pb, pb_grpc
from facts import Facts
from grpc_reflection.v1alpha import reflection
from switch import Switch

# The devices of docs/contract-suite.toml: two supervisors and two agents.
DEVICES = {
    "efelab32-53f9-43ce-b65e-5768c61f7d4a": "5005",
    "efelab32-53f9-43ce-b65e-5768c61f7d4b": "5006",
    "9c14cad7-17c4-48d0-8492-7cf0ff92c224": "5001",
    "9c14cad7-17c4-48d0-8492-7cf0ff92c225": "5002",
}
DESCRIPTION = pb.DescribeResponse(
    backend="Python example 1",
    activities=[pb.ACTIVITY_LISTEN_IN, pb.ACTIVITY_COACH, pb.ACTIVITY_BARGE_IN],
    modes=[pb.MODE_NEXT_CALL, pb.MODE_ALL_CALLS],
    scopes=[pb.SCOPE_AGENT, pb.SCOPE_CALL],
    live_switching=True, do_not_disturb=True, hold=True, answer=True,
)
# What the switch does by command. All other methods of the contract are UNIMPLEMENTED by themselves.
COMMANDS = {
    "StartMonitoring": Switch.start_monitoring, "StopMonitoring": Switch.stop_monitoring,
    "SwitchMonitoring": Switch.switch_monitoring, "AdmitMonitoring": Switch.admit_monitoring,
    "SetDoNotDisturb": Switch.set_do_not_disturb, "Answer": Switch.answer, "Hangup": Switch.hangup,
    "Hold": Switch.hold, "Retrieve": Switch.retrieve,
}
HEARTBEAT_MS, HEARTBEAT_ALLOWED_MS = 10_000, (50, 60_000)
REMEMBERED_SECONDS, REMEMBERED_ANSWERS = 300, 16_384


class Telephony(pb_grpc.TelephonyServicer):
    def __init__(self, switch):
        self.switch, self.facts = switch, switch.facts
        self.answers = collections.OrderedDict()

    async def Describe(self, request, context):
        return DESCRIPTION

    async def Watch(self, request, context):
        shortest, longest = HEARTBEAT_ALLOWED_MS
        beat = min(max(request.heartbeat_ms or HEARTBEAT_MS, shortest), longest) / 1000
        async for fact in self.facts.watch(request.instance, request.after_revision, beat):
            yield fact

    async def command(self, name, request, context):
        try:
            check(request)
            answer = self.once(name, request)
        except Refused as refused:
            answer = refused
        if isinstance(answer, Refused):
            await answer.abort(context)
        return answer

    def once(self, name, request):
        """Does a command, unless its request id was used: then the answer is that of the first time."""
        key = (request.context.on_behalf_of, request.context.request_id)
        asked = (name, request.SerializeToString(deterministic=True))
        now = time.monotonic()
        while self.answers and (len(self.answers) >= REMEMBERED_ANSWERS
                                or next(iter(self.answers.values()))[0] < now - REMEMBERED_SECONDS):
            self.answers.popitem(last=False)
        if key in self.answers:
            _, before, answer = self.answers[key]
            if before != asked:
                raise Refused("InvalidInput", "Parameter '{}' was used for another command.",
                              parameter="context.request_id")
            return answer
        answer = pb.CommandResponse(revision=self.facts.revision)
        try:
            COMMANDS[name](self.switch, request)
        except Refused as refused:
            answer = refused
        self.answers[key] = (now, asked, answer)
        return answer


def handler(name):
    async def handle(self, request, context):
        return await self.command(name, request, context)
    return handle


for _name in COMMANDS:
    setattr(Telephony, _name, handler(_name))


async def move_telephones(switch):
    """Does what the lines of standard input say."""
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    while line := await reader.readline():
        try:
            switch.phone(line.decode(errors="replace"))
            print("ok", flush=True)
        except Refused as refused:
            print("error", refused.text, flush=True)


async def main(address):
    switch = Switch(Facts(), DEVICES)
    server = grpc.aio.server()
    pb_grpc.add_TelephonyServicer_to_server(Telephony(switch), server)
    service = pb.DESCRIPTOR.services_by_name["Telephony"].full_name
    reflection.enable_server_reflection([service, reflection.SERVICE_NAME], server)
    server.add_insecure_port(address)
    await server.start()
    print(f"serving {service} at {address}", file=sys.stderr, flush=True)
    await asyncio.gather(server.wait_for_termination(), move_telephones(switch))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--listen", default="127.0.0.1:11052", metavar="ADDRESS",
                        help="where to serve the contract, on a loopback address: there is no TLS and no password")
    try:
        asyncio.run(main(parser.parse_args().listen))
    except KeyboardInterrupt:
        pass
