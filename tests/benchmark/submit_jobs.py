"""submit_jobs.py FOLDER COUNT: submits FOLDER/many.json so often to the coordinator with FOLDER/state/bootstrap."""
import concurrent.futures
import importlib
import json
import pathlib
import sys
import tempfile

import grpc

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "client"))
from python_client_test import generate  # noqa: E402


def main():
    folder, count = pathlib.Path(sys.argv[1]), int(sys.argv[2])
    bootstrap = json.loads((folder / "state" / "bootstrap").read_text(encoding="utf-8"))
    metadata = [("authorization", f"Bearer {bootstrap['token']}")]
    credentials = grpc.ssl_channel_credentials(bootstrap["ca_certificate"].encode())
    with tempfile.TemporaryDirectory() as out, grpc.secure_channel(bootstrap["endpoints"][0], credentials) as channel:
        generate(ROOT / "proto", out)
        jobs = importlib.import_module("ham.v1.job_pb2")
        messages = importlib.import_module("ham.v1.job_service_pb2")
        stub = importlib.import_module("ham.v1.job_service_pb2_grpc").JobServiceStub(channel)
        json_format = importlib.import_module("google.protobuf.json_format")
        spec = json_format.Parse((folder / "many.json").read_text(), jobs.JobSpec())
        request = messages.CreateJobRequest(parent="projects/default", spec=spec)
        with concurrent.futures.ThreadPoolExecutor(16) as pool:
            for _ in pool.map(lambda _: stub.CreateJob(request, metadata=metadata, timeout=60), range(count)):
                pass


if __name__ == "__main__":
    main()
