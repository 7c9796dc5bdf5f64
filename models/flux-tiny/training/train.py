"""Trains flux-tiny from nothing: runs every stage in order, skips finished ones, can be resumed.

    python train.py --work ../../../.cache/flux-tiny

The VAE is trained beside the transformer on a thread of its own: both aim at the same fixed
latents. A stage that is done leaves <work>/done/<stage>; delete that file (and the stage's
*.state.pt) to repeat it.
"""
import argparse
import fcntl
import os
import signal
import subprocess
import sys
import time

HERE = os.path.dirname(os.path.abspath(__file__))


def parse_arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    default_work = os.path.normpath(os.path.join(HERE, "../../../.cache/flux-tiny"))
    parser.add_argument("--work", default=default_work, help="folder for everything unfinished")
    parser.add_argument("--out", default=os.path.dirname(HERE), help="diffusers folder to write")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--text-steps", type=int, default=800)
    parser.add_argument("--flow-minutes", type=float, default=76)
    parser.add_argument("--distill-minutes", type=float, default=16)
    parser.add_argument("--decoder-minutes", type=float, default=11)
    parser.add_argument("--encoder-minutes", type=float, default=5)
    parser.add_argument("--stage", help="run this one stage only (used by this script itself)")
    return parser.parse_args()


def run_stage(name, arguments):
    """Runs one stage in this process; imports stand here so that it loads only what it needs."""
    import torch
    torch.set_num_threads(1 if name == "vae" else arguments.threads)
    if name == "tokenizers":
        import tokenizer_files
        tokenizer_files.build(arguments.work)
    elif name == "text":
        import text_encoders
        text_encoders.train(arguments.work, arguments.text_steps, arguments.seed + 1)
    elif name == "latents":
        import latents
        latents.build(arguments.work, arguments.seed)
    elif name == "vae":
        import vae
        os.nice(9)    # beside the transformer it takes only the time that is left over
        vae.train(arguments.work, "decoder", arguments.decoder_minutes * 60, arguments.seed)
        vae.train(arguments.work, "encoder", arguments.encoder_minutes * 60, arguments.seed)
    elif name == "flow":
        import flow
        flow.train(arguments.work, arguments.flow_minutes * 60, arguments.seed)
    elif name == "distill":
        import distill
        distill.train(arguments.work, arguments.distill_minutes * 60, arguments.seed)
    elif name == "assemble":
        import assemble
        assemble.write_folder(arguments.work, arguments.out, "distill.pt")
    elif name == "score":
        import score_pipeline
        score_pipeline.write_report(arguments.out)
    else:
        raise SystemExit(f"unknown stage {name!r}; the stages are {', '.join(STAGES)}")
    with open(done_file(arguments.work, name), "w", encoding="utf-8") as file:
        file.write(time.strftime("%Y-%m-%dT%H:%M:%SZ\n", time.gmtime()))


STAGES = ["tokenizers", "text", "latents", "vae", "flow", "distill", "assemble", "score"]


def done_file(work, name):
    return os.path.join(work, "done", name)


def lock(work):
    """An open file that only one run can hold. Stages inherit it, so that a stage which outlives a
    killed run still holds it and is not started twice."""
    held = open(os.path.join(work, "lock"), "w", encoding="utf-8")
    try:
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise SystemExit(f"{work} is in use by another run or by a stage it left behind; end that "
                         "first, or choose another --work") from None
    return held


def start(name, arguments, held):
    """Starts a stage as a process that logs to <work>/<stage>.log; None if the stage is done."""
    if os.path.exists(done_file(arguments.work, name)):
        print(f"{name}: done before", flush=True)
        return None
    # Idle OpenMP threads must sleep, not spin: other jobs share the cores.
    environment = dict(os.environ, OMP_WAIT_POLICY="passive",
                       TORCHINDUCTOR_CACHE_DIR=os.path.join(arguments.work, "compiled"))
    options = [f"--{key.replace('_', '-')}={value}"
               for key, value in vars(arguments).items() if key != "stage"]
    print(f"{name}: started", flush=True)
    with open(os.path.join(arguments.work, f"{name}.log"), "a", encoding="utf-8") as log:
        command = [sys.executable, os.path.abspath(__file__), "--stage", name, *options]
        return subprocess.Popen(command, env=environment, stdout=log, stderr=subprocess.STDOUT,
                                pass_fds=[held.fileno()])


def finish(name, process):
    """Waits for a stage; however the wait ends, the stage is over afterwards."""
    if process is None:
        return
    try:
        if process.wait() != 0:
            raise SystemExit(f"{name} failed with status {process.returncode}; "
                             f"see <work>/{name}.log")
    finally:
        process.terminate()


def main():
    arguments = parse_arguments()
    if arguments.stage:
        run_stage(arguments.stage, arguments)
        return
    # As Ctrl-C does, a polite kill must end the stages too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("stopped; run again to go on"))
    os.makedirs(os.path.join(arguments.work, "done"), exist_ok=True)
    held, vae = lock(arguments.work), None
    try:
        for name in ("tokenizers", "text", "latents"):
            finish(name, start(name, arguments, held))
        vae = start("vae", arguments, held)
        for name in ("flow", "distill"):
            finish(name, start(name, arguments, held))
        finish("vae", vae)
        for name in ("assemble", "score"):
            finish(name, start(name, arguments, held))
    finally:
        if vae is not None:
            vae.terminate()


if __name__ == "__main__":
    main()
