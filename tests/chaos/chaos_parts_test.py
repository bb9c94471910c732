"""What the chaos run judges by, and what it breaks with, by themselves."""
import pathlib
import socket
import sys
import tempfile
import threading
import time
import unittest

HERE = pathlib.Path(__file__).resolve().parent
sys.path += [str(HERE), str(HERE.parent / "support")]
import ledger  # noqa: E402
import schedule  # noqa: E402
import xml_runner  # noqa: E402
from outcome import gaps, interruptions, outcome_of  # noqa: E402
from proxy import DOWN, UP, Proxy, Weather  # noqa: E402


def log(*sequences):
    return [{"sequence": str(sequence)} for sequence in sequences]


def epoch(number, loss):
    return {"metric": {"epoch": number, "train": {"end_of_epoch": True, "loss": loss}}}


FINAL = {"metric": {"evaluation": {"final": True, "clean_accuracy": 0.5, "suites": []}}}


class Logs(unittest.TestCase):
    def test_gaps_and_records_that_come_twice_are_found(self):
        self.assertEqual(gaps(log(1, 2, 3)), [])
        self.assertEqual(gaps([]), [])
        self.assertIn("3 stands where 2", gaps(log(1, 3))[0])
        self.assertIn("2 comes twice", gaps(log(1, 2, 2))[0])
        self.assertIn("stands where 1", gaps(log(2, 3))[0])

    def test_an_epoch_may_be_trained_again_but_only_alike(self):
        once = outcome_of([epoch(1, 0.5), epoch(2, 0.25), FINAL])
        self.assertEqual(once[1], [])
        self.assertEqual(outcome_of([epoch(1, 0.5), epoch(1, 0.5), epoch(2, 0.25), FINAL]), once)
        self.assertIn("not alike", outcome_of([epoch(1, 0.5), epoch(1, 0.75), FINAL])[1][0])
        self.assertNotEqual(outcome_of([epoch(1, 0.5), epoch(2, 0.75), FINAL])[0], once[0])

    def test_what_is_missing_is_told(self):
        self.assertIn("[2]", outcome_of([epoch(2, 0.5), FINAL])[1][0])
        self.assertIn("0 final evaluations", outcome_of([epoch(1, 0.5)])[1][0])
        inexact = {"metric": {"summary": {"inexact_because": ["another CPU"]}}}
        self.assertIn("another CPU", outcome_of([epoch(1, 0.5), FINAL, inexact])[1][0])


    def test_only_attempts_whose_ranks_ran_were_interrupted(self):
        def event(before, after):
            return {"event": {"from_state": before, "to_state": after, "message": f"{before} {after}"}}
        told = [event("STARTING", "RECOVERING"), event("RUNNING", "RECOVERING"), event("RUNNING", "SUCCEEDED"), FINAL]
        self.assertEqual(interruptions(told), ["RUNNING RECOVERING"])


class Schedules(unittest.TestCase):
    KINDS = list(schedule.KINDS)

    def test_a_seed_gives_one_schedule(self):
        first = schedule.draw(7, 60, 3, self.KINDS)
        self.assertEqual(first, schedule.draw(7, 60, 3, self.KINDS))
        self.assertNotEqual(first, schedule.draw(8, 60, 3, self.KINDS))

    def test_all_is_healed_at_the_end_and_nothing_is_held_twice(self):
        for seed in range(50):
            held = {}
            for fault in schedule.draw(seed, 300, 3, self.KINDS):
                self.assertLessEqual(fault.at + fault.seconds, 300)
                holds = schedule.KINDS[fault.kind][1] if fault.kind != schedule.ONCE else None
                if holds is None:
                    continue
                key = (holds, fault.worker if holds != "coordinator" else 0)
                self.assertGreaterEqual(fault.at, held.get(key, 0.0), f"seed {seed}: {fault}")
                held[key] = fault.at + fault.seconds

    def test_every_kind_is_drawn_and_no_other(self):
        drawn = {fault.kind for fault in schedule.draw(1, 3600, 3, self.KINDS)}
        self.assertEqual(drawn, set(self.KINDS) | {schedule.ONCE})
        self.assertEqual({f.kind for f in schedule.draw(1, 60, 3, ["cut"])}, {"cut", schedule.ONCE})


class Ledger(unittest.TestCase):
    def test_lines_are_added_read_and_summed_without_the_broken(self):
        with tempfile.TemporaryDirectory() as folder:
            path = pathlib.Path(folder) / "ledger.tsv"
            for kills, result in ((3, "ok"), (4, "ok"), (100, "job 1\tis lost\nand 2")):
                run = ledger.Run(5, "trainer", 60, {"kill_trainer": kills}, 2, "0123456789abcdefff", result, "c0ffee")
                ledger.append(run, path)
            runs = ledger.read(path)
            self.assertEqual([run.result for run in runs], ["ok", "ok", "job 1 is lost and 2"])
            self.assertEqual(runs[0].digest, "0123456789abcdef")
            self.assertEqual(ledger.totals(runs), {("trainer", "kill_trainer"): 7})


class BadNetwork(unittest.TestCase):
    """A server behind the proxy that sends back what it gets."""

    def setUp(self):
        self.listener = socket.create_server(("127.0.0.1", 0))
        threading.Thread(target=self.serve, daemon=True).start()
        self.proxy = Proxy("127.0.0.1", self.listener.getsockname())
        self.client = self.connect()

    def tearDown(self):
        self.client.close()
        self.proxy.close()
        self.listener.close()

    def serve(self):
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self.echo, args=(connection,), daemon=True).start()

    @staticmethod
    def echo(connection):
        with connection:
            try:
                while data := connection.recv(65536):
                    connection.sendall(data)
            except OSError:
                pass

    def connect(self):
        host, port = self.proxy.address.rsplit(":", 1)
        client = socket.create_connection((host, int(port)), timeout=10)
        return client

    def answer(self, client, data):
        client.sendall(data)
        got = b""
        while len(got) < len(data):
            piece = client.recv(65536)
            if not piece:
                break
            got += piece
        return got

    def nothing_comes(self, client):
        client.settimeout(0.2)
        with self.assertRaises(TimeoutError):
            client.recv(1)
        client.settimeout(10)

    def test_passes_bytes_on(self):
        data = bytes(range(256)) * 1000
        self.assertEqual(self.answer(self.client, data), data)

    def test_a_cut_ends_connections_and_refuses_new_ones_until_it_is_mended(self):
        self.assertEqual(self.answer(self.client, b"a"), b"a")
        self.proxy.set(Weather(refuses=True))
        self.assertFalse(self.is_served(self.client))
        with self.connect() as refused:
            self.assertFalse(self.is_served(refused))
        self.proxy.set(Weather())
        with self.connect() as again:
            self.assertTrue(self.is_served(again))

    def is_served(self, client):
        try:
            return self.answer(client, b"x") == b"x"
        except OSError:
            return False

    def test_bytes_of_a_dead_direction_are_held_until_it_lives(self):
        for dead in ((UP,), (DOWN,), (UP, DOWN)):
            self.proxy.set(Weather(dead=dead))
            self.client.sendall(b"held")
            self.nothing_comes(self.client)
            self.proxy.set(Weather())
            self.assertEqual(self.client.recv(4), b"held", dead)

    def test_delays_and_throttles(self):
        self.proxy.set(Weather(delay=0.1))
        begin = time.monotonic()
        self.answer(self.client, b"x")
        self.assertGreaterEqual(time.monotonic() - begin, 0.2)
        self.proxy.set(Weather(bytes_per_second=100_000))
        begin = time.monotonic()
        self.answer(self.client, bytes(20_000))
        self.assertGreaterEqual(time.monotonic() - begin, 0.2)


if __name__ == "__main__":
    xml_runner.main()
