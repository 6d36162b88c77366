"""What has happened: every fact with its revision, and enough history to resume a broken watch."""

import asyncio
import collections
import uuid

from contract import pb

HISTORY = 1000


class Facts:
    """Devices, calls and monitors as they are now, by id, and the changes that led there."""

    def __init__(self):
        self.instance = uuid.uuid4().hex
        self.revision = 0
        self.history = collections.deque(maxlen=HISTORY)
        self.latest = {}
        self.changed = asyncio.Event()

    def publish(self, **fact):
        """Tells every watch one fact, whole: publish(call=call)."""
        (kind, entity), = fact.items()
        self.revision += 1
        self.history.append(pb.WatchResponse(revision=self.revision, **fact))
        match kind:
            case "device":
                self.latest[kind, entity.id] = pb.WatchResponse(**fact)
            case "call" if all(party.state == pb.LEG_STATE_RELEASED for party in entity.parties):
                self.latest.pop((kind, entity.id), None)
            case "call":
                self.latest[kind, entity.id] = pb.WatchResponse(**fact)
            case "monitor":
                self.latest[kind, entity.supervisor] = pb.WatchResponse(**fact)
                if entity.WhichOneof("state") != "admitting":
                    self.latest.pop(("admission_asked", entity.supervisor), None)
            case "monitor_gone":
                self.latest.pop(("monitor", entity.supervisor), None)
                self.latest.pop(("admission_asked", entity.supervisor), None)
            case "admission_asked":
                self.latest[kind, entity.supervisor] = pb.WatchResponse(**fact)
        self.changed.set()
        self.changed = asyncio.Event()

    def snapshot(self):
        """Everything, at revision 0, so that nobody resumes in the middle of it."""
        begin = pb.WatchResponse(snapshot_begin=pb.SnapshotBegin(instance=self.instance))
        complete = pb.WatchResponse(revision=self.revision, snapshot_complete=pb.SnapshotComplete())
        kinds = ["device", "call", "monitor", "admission_asked"]
        entities = sorted(self.latest.items(), key=lambda item: kinds.index(item[0][0]))
        return [begin, *(fact for _, fact in entities), complete]

    def has(self, instance, revision):
        """Can a watch of that instance go on after that revision?"""
        oldest = self.history[0].revision if self.history else 1
        return instance == self.instance and oldest - 1 <= revision <= self.revision and revision > 0

    async def watch(self, instance, after, beat):
        """The stream of one watcher. `beat`: seconds between two heartbeats."""
        def heartbeat():
            return pb.WatchResponse(revision=after, heartbeat=pb.Heartbeat())

        if self.has(instance, after):
            yield heartbeat()
        else:
            after = None
        while True:
            changed = self.changed
            if after is None or not self.has(self.instance, after):
                news, after = self.snapshot(), self.revision
            else:
                news = [fact for fact in self.history if fact.revision > after]
                after = self.revision
            for fact in news:
                yield fact
            try:
                await asyncio.wait_for(changed.wait(), beat)
            except asyncio.TimeoutError:
                yield heartbeat()
