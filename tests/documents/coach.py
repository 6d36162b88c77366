"""The Coach request by the client that openapi-python-client makes of the document.

Usage: python3 coach.py URL USER PASSWORD DEVICE TARGET
"""

import base64
import sys

from undertone_client import AuthenticatedClient
from undertone_client.api.devices import operate_my_device, read_my_device
from undertone_client.models import Accepted, BargeInRequest, CoachRequest, ErrorBody
from undertone_client.models import CoachRequestSupervisorMonitoringScope as Scope

url, user, password, device, target = sys.argv[1:]
token = base64.b64encode(f"{user}:{password}".encode()).decode()

with AuthenticatedClient(base_url=url, token=token, prefix="Basic") as client:
    coach = CoachRequest(
        operation_name="Coach",
        target_device_uri=f"{url}/api/v2/devices/{target}",
        supervisor_monitoring_scope=Scope.AGENT,
    )
    accepted = operate_my_device.sync(device, client=client, body=coach)
    assert isinstance(accepted, Accepted) and accepted.status_code == 0, accepted

    monitors = read_my_device.sync(device, client=client).device.supervisor_monitoring_state
    assert (monitors.state, monitors.scope, monitors.mode) == ("Coach", "Agent", "AllCalls"), monitors

    barge_in = BargeInRequest(operation_name="BargeIn")
    refused = operate_my_device.sync_detailed(device, client=client, body=barge_in)
    assert isinstance(refused.parsed, ErrorBody), refused
    assert (refused.status_code, refused.parsed.status_code) == (400, 1), refused

print("coached")
