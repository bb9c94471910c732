#!/usr/bin/env python3
"""A client that has nothing of ham but its published .proto files: submits a job and follows it to its end.

Needs Python 3 with grpcio and protobuf, protoc, and gRPC's Python plugin for it.
"""
import argparse
import importlib
import json
import pathlib
import subprocess
import sys
import tempfile

import grpc


def generate(proto_dir, out):
    """Python modules of every file under ham/v1."""
    files = sorted(pathlib.Path(proto_dir, "ham", "v1").glob("*.proto"))
    plugin = subprocess.run(["sh", "-c", "command -v grpc_python_plugin"], capture_output=True, text=True, check=True)
    subprocess.run(["protoc", f"-I{proto_dir}", f"--python_out={out}", f"--grpc_python_out={out}",
                    f"--plugin=protoc-gen-grpc_python={plugin.stdout.strip()}", *map(str, files)], check=True)
    sys.path.insert(0, str(out))


def follow(stub, messages, metadata, name):
    """All records of the job, with one stop in the middle to show that the token leads on."""
    records, token = [], ""
    for stop_after in (1, None):
        request = messages.WatchJobRequest(name=name, token=token, follow=True)
        for response in stub.WatchJob(request, metadata=metadata, timeout=240):
            records.extend(response.records)
            token = response.token
            if stop_after and len(records) >= stop_after:
                break
    return records


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bootstrap", required=True)
    parser.add_argument("--proto-dir", required=True)
    parser.add_argument("--spec-json", required=True)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as out:
        generate(arguments.proto_dir, out)
        jobs = importlib.import_module("ham.v1.job_pb2")
        messages = importlib.import_module("ham.v1.job_service_pb2")
        services = importlib.import_module("ham.v1.job_service_pb2_grpc")
        json_format = importlib.import_module("google.protobuf.json_format")

        bootstrap = json.loads(pathlib.Path(arguments.bootstrap).read_text(encoding="utf-8"))
        credentials = grpc.ssl_channel_credentials(bootstrap["ca_certificate"].encode())
        metadata = [("authorization", f"Bearer {bootstrap['token']}")]
        spec = json_format.Parse(pathlib.Path(arguments.spec_json).read_text(encoding="utf-8"), jobs.JobSpec())
        with grpc.secure_channel(bootstrap["endpoints"][0], credentials) as channel:
            stub = services.JobServiceStub(channel)
            request = messages.CreateJobRequest(parent="projects/default", spec=spec, labels={"from": "python"})
            job = stub.CreateJob(request, metadata=metadata, timeout=30)
            records = follow(stub, messages, metadata, job.name)
            job = stub.GetJob(messages.GetJobRequest(name=job.name), metadata=metadata, timeout=30)
    assert job.state == jobs.Job.SUCCEEDED, job
    assert job.labels["from"] == "python", job
    assert [r.sequence for r in records] == list(range(1, len(records) + 1)), [r.sequence for r in records]
    finals = [r.metric.evaluation for r in records
              if r.HasField("metric") and r.metric.HasField("evaluation") and r.metric.evaluation.final]
    assert len(finals) == 1, finals
    suite = finals[0].suites[0]
    print(f"{job.name}: {suite.name}: average {suite.robust_accuracy:.3f}, worst class {suite.worst_class_name} "
          f"{suite.worst_class_robust_accuracy:.3f}")


if __name__ == "__main__":
    main()
