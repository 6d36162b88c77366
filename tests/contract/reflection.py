"""Prints the methods of the contract, as a server describes them by reflection."""

import sys

import grpc
from google.protobuf.descriptor_pool import DescriptorPool
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

with grpc.insecure_channel(sys.argv[1]) as channel:
    database = ProtoReflectionDescriptorDatabase(channel)
    name = "undertone.telephony.v1.Telephony"
    assert name in database.get_services(), database.get_services()
    for method in DescriptorPool(database).FindServiceByName(name).methods:
        print(method.name)
