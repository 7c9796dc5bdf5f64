"""A Fluxline client in Python: creates a job, watches it, reads its picture and saves it.

    python client.py --output circle.png "a large red circle on a yellow background"

The README beside this file says how its message classes are generated from the proto files.
"""

import argparse
import sys
from pathlib import Path

import grpc
from google.rpc import error_details_pb2
from grpc_status import rpc_status

sys.path.insert(0, str(Path(__file__).parent / "generated"))
from fluxline.v1 import image_job_pb2, image_service_pb2, image_service_pb2_grpc  # noqa: E402


def draw(service, spec, output):
    """Makes the three calls that a picture takes; returns the exit code."""
    create = image_service_pb2.CreateImageJobRequest(spec=spec)
    job = service.CreateImageJob(create, timeout=30)
    print(f"{job.name}: seed {job.spec.seed}", file=sys.stderr)

    # The last event holds the finished job.
    for event in service.WatchImageJob(image_service_pb2.WatchImageJobRequest(name=job.name)):
        job = event.job
        state = image_job_pb2.ImageJob.State.Name(job.state)
        steps = f"{job.progress.step}/{job.progress.total_steps}"
        print(f"{state} {steps}", file=sys.stderr)
    if job.state != image_job_pb2.ImageJob.STATE_SUCCEEDED:
        return explain(job.error)
    for advice in job.advisories:
        print(f"advice on {advice.field}: {advice.message}", file=sys.stderr)

    with open(output, "wb") as file:
        for chunk in service.ReadImage(image_service_pb2.ReadImageRequest(name=job.name)):
            file.write(chunk.chunk)
    print(output)
    return 0


def explain(status):
    """Prints a google.rpc.Status: which field is wrong and what to do about it."""
    print(f"error {status.code}: {status.message}", file=sys.stderr)
    for detail in status.details:
        info = error_details_pb2.ErrorInfo()
        bad_request = error_details_pb2.BadRequest()
        retry = error_details_pb2.RetryInfo()
        if detail.Unpack(info):
            print(f"  reason {info.reason}", file=sys.stderr)
        elif detail.Unpack(bad_request):
            for violation in bad_request.field_violations:
                print(f"  field {violation.field}: {violation.description}", file=sys.stderr)
        elif detail.Unpack(retry):
            seconds = retry.retry_delay.ToTimedelta().total_seconds()
            print(f"  try again in {seconds} s", file=sys.stderr)
    return 1


def main():
    parser = argparse.ArgumentParser(description="Draws one picture.")
    parser.add_argument("prompt")
    parser.add_argument("--server", default="127.0.0.1:50051", help="HOST:PORT")
    parser.add_argument("--output", default="picture.png")
    parser.add_argument("--width", type=int, help="pixels; the model's default if left out")
    parser.add_argument("--steps", type=int, help="the model's default if left out")
    parser.add_argument("--seed", type=int, help="same seed, same picture; drawn if left out")
    options = parser.parse_args()
    # A field set to None is absent, and the server takes the model's default.
    spec = image_job_pb2.ImageSpec(
        prompt=options.prompt,
        width=options.width,
        num_inference_steps=options.steps,
        seed=options.seed,
    )
    with grpc.insecure_channel(options.server) as channel:
        service = image_service_pb2_grpc.ImageServiceStub(channel)
        try:
            return draw(service, spec, options.output)
        except grpc.RpcError as error:
            status = rpc_status.from_call(error)
            if status is None:
                print(f"error {error.code().name}: {error.details()}", file=sys.stderr)
                return 1
            return explain(status)


if __name__ == "__main__":
    sys.exit(main())
