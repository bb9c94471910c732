"""What a training job's log must be like, whatever happened to the job, and what of it must not depend on that."""
import hashlib
import json


def gaps(records):
    """What is wrong with the sequence numbers of a whole log, or of its beginning; one sentence each."""
    found = []
    for place, record in enumerate(records, start=1):
        sequence = int(record["sequence"])
        if sequence != place:
            kind = "comes twice" if sequence < place else f"stands where {place} belongs"
            found.append(f"record {sequence} {kind}")
            break
    return found


def outcome_of(records):
    """(what training computed, in exact numbers; what is wrong with it, one sentence each)."""
    epochs, finals, wrong = {}, [], []
    for record in records:
        metric = record.get("metric", {})
        train = metric.get("train", {})
        if train.get("end_of_epoch"):
            told = [train.get(name) for name in ("loss", "hard_share", "kept_share", "gradient_norm", "iterations")]
            if epochs.setdefault(metric["epoch"], told) != told:
                wrong.append(f"epoch {metric['epoch']} was trained twice, and not alike")
        if metric.get("evaluation", {}).get("final"):
            evaluation = metric["evaluation"]
            robust = [suite["per_class_robust_accuracy"] for suite in evaluation["suites"]]
            finals.append([evaluation["clean_accuracy"], robust])
        inexact = metric.get("summary", {}).get("inexact_because", [])
        wrong += [f"training was not resumed exactly: {why}" for why in inexact]
    if sorted(epochs) != list(range(1, len(epochs) + 1)):
        wrong.append(f"only epochs {sorted(epochs)} were told")
    if not finals or any(final != finals[0] for final in finals):
        wrong.append(f"{len(finals)} final evaluations, not one")
    return {"epochs": epochs, "final": finals[:1]}, wrong


def interruptions(records):
    """Why attempts ended whose ranks ran, one sentence each."""
    events = [record["event"] for record in records if "event" in record]
    return [event["message"] for event in events
            if (event["from_state"], event["to_state"]) == ("RUNNING", "RECOVERING")]


def digest_of(value):
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
