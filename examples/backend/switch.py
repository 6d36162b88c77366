"""The telephone system: calls that are simulated, and the monitors that act on them.

Put your own switch in the place of what people do here (`call`, `pick_up`, `release`), and let it
connect the sound where `hear` says who hears whom; the monitors may stay as they are.
"""

import asyncio
import time

from contract import Refused, pb

ADMISSION_TIMEOUT = 5
INVITE_TIMEOUT = 20
TALKING = (pb.LEG_STATE_ESTABLISHED, pb.LEG_STATE_HELD)


def now_ms():
    return time.time_ns() // 1_000_000


def here(call, supervisors=False):
    """The parties that have not left."""
    return [party for party in call.parties if party.state != pb.LEG_STATE_RELEASED
            and (supervisors or party.role != pb.PARTY_ROLE_SUPERVISOR)]


class Monitor:
    """A supervisor's monitor: what is told of it, its timer, and the calls it is done with."""

    def __init__(self, fact):
        self.fact, self.timer, self.passed = fact, None, set()

    @property
    def state(self):
        return self.fact.WhichOneof("state")

    @property
    def call(self):
        return getattr(getattr(self.fact, self.state), "call", "")


class Switch:
    def __init__(self, facts, devices):
        self.facts, self.calls, self.monitors, self.pickups = facts, {}, {}, {}
        self.devices = {id: pb.Device(id=id, number=number, kind=pb.DEVICE_KIND_PHONE, registered=True)
                        for id, number in devices.items()}
        self.made = 0
        for device in self.devices.values():
            facts.publish(device=device)

    # What is asked for by command. Each is checked before anything is changed.

    def device(self, id):
        if id not in self.devices:
            raise Refused("NotFound", "Resource '/devices/{}' was not found.", device=id)
        return self.devices[id]

    def leg(self, device, call):
        self.device(device)
        for party in here(self.calls[call], True) if call in self.calls else []:
            if party.device_id == device:
                return party
        raise Refused("NotFound", "Resource '/calls/{}' was not found.", call=call)

    def start_monitoring(self, asked):
        supervisor, target = self.device(asked.supervisor), self.device(asked.target)
        if supervisor is target:
            raise Refused("NotPermitted", "Nobody monitors itself.")
        if any(one.fact.target == target.id for id, one in self.monitors.items() if id != supervisor.id):
            raise Refused("InUse", "Device '{}' is already monitored by another supervisor.", device=target.id)
        monitor = self.monitors.get(supervisor.id)
        if monitor and monitor.fact.target != target.id:
            self.end(monitor)
            monitor = None
        if not monitor:
            fact = pb.Monitor(supervisor=supervisor.id, target=target.id, armed=pb.Monitor.Armed())
            monitor = self.monitors[supervisor.id] = Monitor(fact)
        fact = monitor.fact
        fact.activity, fact.mode, fact.scope = asked.activity, asked.mode, asked.scope
        fact.confirm_joins, fact.agent_side_only = asked.confirm_joins, asked.agent_side_only
        if monitor.state == "joined":
            fact.joined.activity = asked.activity
            self.hear(monitor)
        elif monitor.state == "admitting":
            self.set_state(monitor, armed=pb.Monitor.Armed())
        self.facts.publish(monitor=fact)
        monitor.passed.clear()
        self.seek(monitor)

    def stop_monitoring(self, asked):
        if asked.supervisor not in self.monitors:
            raise Refused("InvalidState", "Device '{}' monitors nobody.", device=asked.supervisor)
        self.end(self.monitors[asked.supervisor])

    def of_call(self, supervisor, call, state, text):
        self.device(supervisor)
        monitor = self.monitors.get(supervisor)
        if call not in self.calls:
            raise Refused("NotFound", "Resource '/calls/{}' was not found.", call=call)
        if not monitor or monitor.state != state or monitor.call != call:
            raise Refused("InvalidState", text, device=supervisor)
        return monitor

    def switch_monitoring(self, asked):
        monitor = self.of_call(asked.supervisor, asked.call, "joined", "Device '{}' does not monitor this call.")
        if monitor.fact.joined.activity == asked.activity:
            raise Refused("InvalidState", "The supervisor does this already.")
        monitor.fact.joined.activity = asked.activity
        self.hear(monitor)
        self.facts.publish(monitor=monitor.fact)

    def admit_monitoring(self, asked):
        monitor = self.of_call(asked.supervisor, asked.call, "admitting", "Device '{}' does not wait for leave.")
        if asked.admitted:
            self.invite(monitor, self.calls[asked.call])
        else:
            self.fall_back(monitor, "NotPermitted", "Device '{}' may not join this call.")

    def set_do_not_disturb(self, asked):
        device = self.device(asked.device)
        device.do_not_disturb = asked.on
        self.facts.publish(device=device)

    def turn(self, asked, before, after):
        leg = self.leg(asked.device, asked.call)
        if leg.role == pb.PARTY_ROLE_SUPERVISOR:
            raise Refused("Forbidden", "A supervisor's leg can only be answered, released and switched.")
        if leg.state != before:
            raise Refused("InvalidState", "Call '{}' is not in a state that allows this.", call=asked.call)
        leg.state = after
        self.changed(self.calls[asked.call])

    def hold(self, asked):
        self.turn(asked, pb.LEG_STATE_ESTABLISHED, pb.LEG_STATE_HELD)

    def retrieve(self, asked):
        self.turn(asked, pb.LEG_STATE_HELD, pb.LEG_STATE_ESTABLISHED)

    def answer(self, asked):
        self.pick_up(self.calls.get(asked.call), self.leg(asked.device, asked.call))

    def hangup(self, asked):
        self.release(self.calls.get(asked.call), self.leg(asked.device, asked.call))

    # What people do at their telephones.

    def phone(self, line):
        """Does what a line of standard input says."""
        match line.split():
            case ["call", source, to]:
                self.call(source, to)
            case ["answer", number]:
                self.pick_up(*self.find(number, pb.LEG_STATE_RINGING))
            case ["hangup", number]:
                self.release(*self.find(number))
            case ["phone", number, ("answers" | "rings" | "busy" | "rejects") as does]:
                self.pickups[self.by_number(number).id] = does
            case ["register" | "unregister" as word, number]:
                device = self.by_number(number)
                device.registered = word == "register"
                self.facts.publish(device=device)
            case _:
                raise Refused("InvalidInput", "call FROM TO, answer NUMBER, hangup NUMBER, register NUMBER, "
                              "unregister NUMBER or phone NUMBER answers|rings|busy|rejects")

    def by_number(self, number):
        for device in self.devices.values():
            if device.number == number:
                return device
        raise Refused("NotFound", "Resource '/devices?phoneNumber={}' was not found.", number=number)

    def find(self, number, state=None):
        for call in self.calls.values():
            for party in here(call, True):
                if party.number == number and state in (None, party.state):
                    return call, party
        raise Refused("InvalidState", "Device '{}' is on no such call.", number=number)

    def call(self, source, to):
        device = self.by_number(to)
        if not device.registered or device.do_not_disturb:
            raise Refused("InvalidState", "Device '{}' can not be called.", number=to)
        self.made += 1
        call = pb.Call(id=f"call-{self.made}", conn_id=f"{self.made:016x}", type=pb.CALL_TYPE_INBOUND,
                       ani=source, dnis=to, started_at_ms=now_ms())
        call.parties.add(number=source, role=pb.PARTY_ROLE_CUSTOMER, state=pb.LEG_STATE_DIALING)
        call.parties.add(device_id=device.id, number=to, role=pb.PARTY_ROLE_AGENT, state=pb.LEG_STATE_RINGING)
        self.calls[call.id] = call
        self.changed(call)

    def pick_up(self, call, leg):
        if leg.state != pb.LEG_STATE_RINGING:
            raise Refused("InvalidState", "Call '{}' is not in a state that allows this.", call=call.id)
        if leg.role == pb.PARTY_ROLE_SUPERVISOR:
            return self.join(self.monitors[leg.device_id], call, leg)
        for party in here(call):
            party.state, party.established_at_ms = pb.LEG_STATE_ESTABLISHED, now_ms()
        self.changed(call)

    def release(self, call, leg):
        was, leg.state = leg.state, pb.LEG_STATE_RELEASED
        if leg.role == pb.PARTY_ROLE_SUPERVISOR:
            monitor = self.monitors[leg.device_id]
            self.facts.publish(call=call)
            if was == pb.LEG_STATE_RINGING:
                return self.fall_back(monitor, "InvalidState", "Device '{}' has rejected the call.")
            monitor.passed.add(call.id)
            return self.leave(monitor)
        if len(here(call)) < 2:
            for party in call.parties:
                party.state = pb.LEG_STATE_RELEASED
            del self.calls[call.id]
        self.changed(call)

    # Monitors.

    def changed(self, call):
        """Tells a call as it is now; its supervisor leaves with it, and others look for it."""
        self.facts.publish(call=call)
        for monitor in list(self.monitors.values()):
            if monitor.call == call.id and call.id not in self.calls:
                self.leave(monitor)
            self.seek(monitor)

    def seek(self, monitor):
        """An armed monitor looks for a call on which its agent talks."""
        for call in self.calls.values() if monitor.state == "armed" else []:
            agent = any(party.device_id == monitor.fact.target and party.state in TALKING for party in here(call))
            if agent and len(here(call)) > 1 and call.id not in monitor.passed:
                if not monitor.fact.confirm_joins:
                    return self.invite(monitor, call)
                self.set_state(monitor, admitting=pb.Monitor.Admitting(call=call.id))
                self.facts.publish(monitor=monitor.fact)
                self.facts.publish(admission_asked=pb.AdmissionAsked(
                    supervisor=monitor.fact.supervisor, target=monitor.fact.target, call=call.id,
                    activity=monitor.fact.activity))
                return self.later(monitor, ADMISSION_TIMEOUT, "Unavailable", "Nobody has let device '{}' join.")

    def invite(self, monitor, call):
        """Brings the supervisor's phone in."""
        supervisor = self.devices[monitor.fact.supervisor]
        self.set_state(monitor, inviting=pb.Monitor.Inviting(call=call.id))
        self.facts.publish(monitor=monitor.fact)
        does = self.pickups.get(supervisor.id, "answers")
        if any(party.device_id == supervisor.id for other in self.calls.values() for party in here(other, True)):
            does = "busy"
        if not supervisor.registered:
            return self.fall_back(monitor, "Internal", "Device '{}' is not registered.")
        if does in ("busy", "rejects"):
            return self.fall_back(monitor, "InvalidState", "Device '{}' can not be brought in: " + does + ".")
        leg = call.parties.add(device_id=supervisor.id, number=supervisor.number, monitors=monitor.fact.target,
                               role=pb.PARTY_ROLE_SUPERVISOR, state=pb.LEG_STATE_RINGING,
                               activity=monitor.fact.activity)
        self.facts.publish(call=call)
        self.later(monitor, INVITE_TIMEOUT, "InvalidState", "Device '{}' does not answer.")
        if does == "answers":
            self.join(monitor, call, leg)

    def join(self, monitor, call, leg):
        leg.state, leg.established_at_ms = pb.LEG_STATE_ESTABLISHED, now_ms()
        activity = monitor.fact.activity
        self.set_state(monitor, joined=pb.Monitor.Joined(call=call.id, activity=activity, since_ms=now_ms()))
        self.facts.publish(monitor=monitor.fact)
        self.hear(monitor)

    def hear(self, monitor):
        """Here a switch connects the sound: in ListenIn the supervisor is heard by nobody, in Coach by the
        agent `monitors` alone, in BargeIn by all."""
        self.leg(monitor.fact.supervisor, monitor.call).activity = monitor.fact.joined.activity
        self.facts.publish(call=self.calls[monitor.call])

    def leave(self, monitor):
        """The supervisor is out of the call: armed for the next, or done."""
        self.drop(monitor)
        if monitor.state == "joined" and monitor.fact.mode == pb.MODE_NEXT_CALL:
            return self.gone(monitor)
        self.set_state(monitor, armed=pb.Monitor.Armed())
        self.facts.publish(monitor=monitor.fact)
        self.seek(monitor)

    def fall_back(self, monitor, reason, pattern):
        """The supervisor could not be brought in: its desktop is told, and the next call counts."""
        refused = Refused(reason, pattern, device=monitor.fact.supervisor)
        self.facts.publish(failure=pb.Failure(device=monitor.fact.supervisor, call=monitor.call, reason=reason,
                                              message=refused.text, metadata=refused.metadata))
        monitor.passed.add(monitor.call)
        self.leave(monitor)

    def end(self, monitor):
        self.drop(monitor)
        self.gone(monitor)

    def gone(self, monitor):
        self.set_state(monitor, armed=pb.Monitor.Armed())
        del self.monitors[monitor.fact.supervisor]
        self.facts.publish(monitor_gone=pb.MonitorGone(supervisor=monitor.fact.supervisor))

    def drop(self, monitor):
        """Releases the supervisor's leg, if the call still has one."""
        for party in here(self.calls[monitor.call], True) if monitor.call in self.calls else []:
            if party.device_id == monitor.fact.supervisor:
                party.state = pb.LEG_STATE_RELEASED
                self.facts.publish(call=self.calls[monitor.call])

    def set_state(self, monitor, **state):
        if monitor.timer:
            monitor.timer.cancel()
        monitor.timer = None
        monitor.fact.MergeFrom(pb.Monitor(**state))

    def later(self, monitor, seconds, reason, pattern):
        give_up = asyncio.get_running_loop().call_later
        monitor.timer = give_up(seconds, self.fall_back, monitor, reason, pattern)
