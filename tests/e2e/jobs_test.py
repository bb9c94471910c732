"""Jobs from submit to their end, with real processes and real images."""
import fcntl
import json
import os
import pathlib
import pty
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import unittest
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import xml_runner  # noqa: E402
from cluster import BIN, LONG, Cluster, alive, spec, wait_for  # noqa: E402


def points(records, kind):
    return [r["metric"] for r in records if kind in r.get("metric", {})]


class Jobs(unittest.TestCase):
    """One cluster for the tests that leave it as it was."""

    @classmethod
    def setUpClass(cls):
        cls.cluster = Cluster(workers=2)

    @classmethod
    def tearDownClass(cls):
        cls.cluster.__exit__(None)

    def test_two_workers_train_to_success_and_the_worst_class_is_reported(self):
        watched = self.cluster.hamctl("submit", self.cluster.write_spec(spec()), "--watch")
        self.assertIn("SUCCEEDED", watched.stdout)
        name = json.loads(self.cluster.hamctl("list", "--limit", 1, "-o", "json").stdout)
        name = (name["jobs"] if isinstance(name, dict) else name)[0]["name"]
        records = self.cluster.records(name)
        self.assertEqual([r["sequence"] for r in records], [str(i + 1) for i in range(len(records))])
        final = points(records, "evaluation")[-1]["evaluation"]
        self.assertTrue(final["final"])
        suite = final["suites"][0]
        self.assertEqual(len(final["class_names"]), 10)
        self.assertEqual(sum(final["per_class_rows"]), 64)
        self.assertEqual(suite["worst_class_robust_accuracy"], min(
            v for v, n in zip(suite["per_class_robust_accuracy"], final["per_class_rows"]) if n))
        self.assertEqual(suite["worst_class_name"], final["class_names"][suite.get("worst_class", 0)])
        self.assertIn(suite["worst_class_name"], watched.stdout)
        epochs = [p["train"] for p in points(records, "train") if p["train"].get("end_of_epoch")]
        self.assertEqual(len(epochs), 2)
        self.assertEqual(epochs[0]["hard_share"], 1)
        self.assertLess(epochs[1]["hard_share"], 1)
        self.assertEqual(len(points(records, "summary")), 1)
        self.assertEqual(self.cluster.job(name)["checkpoint"]["epoch"], 2)
        ranks = {r["log"].get("rank", 0) for r in records if "log" in r}
        self.assertLessEqual(ranks, {0, 1})

    def test_prometheus_scrape_shows_job_and_workers(self):
        name = self.cluster.submit(spec())
        self.cluster.wait_state(name, "SUCCEEDED")
        text = urllib.request.urlopen(f"http://{self.cluster.metrics}/metrics", timeout=10).read().decode()
        self.assertIn("ham_job_worst_class_robust_accuracy_ratio{", text)
        self.assertRegex(text, r'ham_workers\{state="CONNECTED"\} 2')

    def test_cancel_stops_the_ranks(self):
        name = self.cluster.submit(spec(**LONG))
        self.cluster.wait_state(name, "RUNNING")
        trainers = wait_for(lambda: self.cluster.trainers("worker-0"), "a trainer")
        self.cluster.hamctl("cancel", name)
        self.cluster.wait_state(name, "CANCELLED")
        wait_for(lambda: not any(map(alive, trainers)), "the trainers' end")
        self.cluster.hamctl("watch", name, check=1)  # of an ended job that did not succeed
        self.cluster.hamctl("cancel", name)  # again: fine

    def test_cancel_of_an_ended_job_is_refused(self):
        name = self.cluster.submit(spec(world_size=1, epochs=1))
        self.cluster.wait_state(name, "SUCCEEDED")
        self.assertIn("SUCCEEDED", self.cluster.hamctl("cancel", name, check=1).stderr)

    def test_ctrl_c_detaches_and_the_job_goes_on(self):
        name = self.cluster.submit(spec(epochs=8))
        self.cluster.wait_state(name, "STARTING", "RUNNING")
        watch = subprocess.Popen([str(BIN / "hamctl"), "watch", name], env=self.cluster.environment,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        first = watch.stdout.readline()
        self.assertTrue(first)
        watch.send_signal(signal.SIGINT)
        rest, _ = watch.communicate(timeout=30)
        self.assertEqual(watch.returncode, 130, rest)
        self.assertIn("hamctl watch", rest)
        self.cluster.wait_state(name, "SUCCEEDED")

    def test_a_terminal_shows_one_bar_a_class_and_the_worst_marked(self):
        main, other = pty.openpty()
        fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
        watch = subprocess.Popen([str(BIN / "hamctl"), "submit", str(self.cluster.write_spec(spec())), "--watch"],
                                 env=dict(self.cluster.environment, TERM="xterm"), stdin=other, stdout=other,
                                 stderr=other, close_fds=True)
        os.close(other)
        shown = b""
        while True:
            try:
                chunk = os.read(main, 65536)
            except OSError:  # the other end is closed
                break
            if not chunk:
                break
            shown += chunk
        os.close(main)
        self.assertEqual(watch.wait(timeout=30), 0, shown)
        last = shown.decode().rsplit("\x1b[J", 1)[1].replace("\r\n", "\n")
        self.assertEqual(sum("░" in line or "█" in line for line in last.splitlines()), 11, last)  # progress, classes
        self.assertEqual(last.count("< worst"), 1, last)
        self.assertIn("SUCCEEDED", last.splitlines()[-1])

    def test_logs_and_the_tables(self):
        name = self.cluster.submit(spec(world_size=2, epochs=1), "--label", "team=vision")
        self.cluster.wait_state(name, "SUCCEEDED")
        logs = self.cluster.hamctl("logs", name).stdout
        one = self.cluster.hamctl("logs", name, "--rank", 1, "--follow").stdout
        self.assertEqual(one, "".join(line[4:] + "\n" for line in logs.splitlines() if line.startswith("[1] ")))
        self.cluster.hamctl("logs", name, "--rank", 2, check=2)
        self.assertIn("team=vision", self.cluster.hamctl("list", "--state", "succeeded").stdout)
        self.assertIn("fashion-mnist", self.cluster.hamctl("get", name).stdout)
        self.assertIn(f'name: "{name}"', self.cluster.hamctl("get", name, "-o", "yaml").stdout)
        self.assertRegex(self.cluster.hamctl("workers").stdout, r"worker-0 +CONNECTED +[01]/1 +cpu")
        version = json.loads(self.cluster.hamctl("version", "-o", "json").stdout)
        self.assertEqual(len(version["coordinator"].pop("signing_key")), 44)
        self.assertEqual(version["client"], version["coordinator"])
        self.assertIn("more jobs", self.cluster.hamctl("list", "--limit", 1).stderr)

    def test_max_wait_is_exit_4_and_the_job_goes_on(self):
        name = self.cluster.submit(spec(world_size=1, **LONG))
        self.assertIn("goes on", self.cluster.hamctl("watch", name, "--max-wait", "1s", check=4).stderr)
        self.assertNotIn(self.cluster.job(name)["state"], ("CANCELLED", "FAILED"))
        self.cluster.hamctl("cancel", name)

    def test_a_spec_completed_by_hamctl_runs_in_a_trainer_alone(self):
        done = self.cluster.hamctl("submit", self.cluster.write_spec(spec(world_size=1, epochs=1)), "--dry-run", "-o",
                                   "json")
        job = self.cluster.path / "alone.json"
        job.write_text(done.stdout)
        run = subprocess.run([str(BIN / "ham-trainer"), "--spec", str(job), "--work-dir",
                              str(self.cluster.path / "alone")], capture_output=True, text=True, timeout=120)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("worst", run.stdout)
        self.assertIn("train.epochs", self.cluster.hamctl(
            "submit", self.cluster.write_spec(spec(epochs=0)), "--dry-run", check=2).stderr)

    def test_same_request_id_gives_the_same_job(self):
        first = self.cluster.submit(spec(world_size=1, epochs=1), "--request-id", "once")
        again = self.cluster.submit(spec(world_size=1, epochs=1), "--request-id", "once")
        self.assertEqual(first, again)
        path = self.cluster.write_spec(spec(world_size=1, epochs=2), "other.yaml")
        refused = self.cluster.hamctl("submit", path, "--request-id", "once", check=None)
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("once", refused.stderr)
        self.cluster.wait_state(first, "SUCCEEDED")

    def test_wrong_specs_are_usage_errors_that_name_the_field(self):
        cases = {
            "train: {attack: {epsilonn: 1}}": "train.attack.epsilon",
            "train: {data: {name: fashion-mnist}, attack: {epsilon: -1}}": "train.attack.epsilon",
            "train: {data: {name: fashion-mnist}, method: {mining_step: 99}}": "train.method.mining_step",
            "train: {data: {name: fashion-mnist}, attack: {steps: ten}}": "train.attack.steps",
            "train: [": "YAML",
        }
        for text, expected in cases.items():
            refused = self.cluster.hamctl("submit", self.cluster.write_spec(text, "bad.yaml"), check=2)
            self.assertIn(expected, refused.stderr)

    def test_missing_data_set_waits_and_says_so(self):
        name = self.cluster.submit(spec(data={"name": "no-such-data"}))
        job = wait_for(lambda: (j := self.cluster.job(name))["state_reason"] == "NO_WORKER_FITS" and j, "the reason")
        self.assertIn("no-such-data", job["state_message"])
        self.cluster.hamctl("cancel", name)

    def test_unknown_job_is_exit_5(self):
        self.assertIn("nothere", self.cluster.hamctl("get", "nothere", check=5).stderr)

    def test_wrong_token_is_exit_6(self):
        bootstrap = json.loads((self.cluster.path / "state" / "bootstrap").read_text())
        self.assertEqual(stat.S_IMODE(os.stat(self.cluster.path / "state" / "bootstrap").st_mode), 0o600)
        bootstrap["token"] = "ham_admin_" + "A" * 43
        forged = self.cluster.path / "forged"
        forged.write_text(json.dumps(bootstrap))
        config = self.cluster.path / "forged-config.json"
        self.cluster.hamctl("--config", config, "login", "--bootstrap", forged, check=6)

    def test_worker_secret_opens_no_client_call(self):
        self.cluster.hamctl("--config", self.cluster.path / "join-config.json", "login", "--bootstrap",
                            self.cluster.path / "state" / "worker-join", check=6)

    def test_a_python_client_with_the_published_protocol_only(self):
        python = os.environ["HAM_PYTHON_CLIENT"]
        root = pathlib.Path(__file__).resolve().parents[2]
        job = self.cluster.path / "python.json"
        job.write_text(spec(world_size=1))
        done = subprocess.run([python, str(root / "tests/client/python_client_test.py"), "--bootstrap",
                               str(self.cluster.path / "state/bootstrap"), "--proto-dir", str(root / "proto"),
                               "--spec-json", str(job)], capture_output=True, text=True, timeout=240)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


class Start(unittest.TestCase):
    """What each program says when it cannot start."""

    def test_a_port_in_use_is_named(self):
        with socket.create_server(("127.0.0.1", 0)) as taken, Cluster(workers=0) as cluster:
            port = taken.getsockname()[1]
            done = subprocess.run([str(BIN / "ham-coordinator"), "--state-dir", str(cluster.path / "second"),
                                   "--listen", f"127.0.0.1:{port}", "--metrics-listen", ""], capture_output=True,
                                  text=True, timeout=30)
            self.assertEqual(done.returncode, 1)
            self.assertIn(str(port), done.stderr)

    def test_a_second_coordinator_on_one_state_directory_is_refused(self):
        with Cluster(workers=0) as cluster:
            done = subprocess.run([str(BIN / "ham-coordinator"), "--state-dir", str(cluster.path / "state"), "--listen",
                                   "127.0.0.1:0", "--metrics-listen", ""], capture_output=True, text=True, timeout=30)
            self.assertEqual(done.returncode, 1)
            self.assertIn(str(cluster.path / "state"), done.stderr)

    def test_two_workers_with_one_name(self):
        with Cluster(workers=1, options=["--lease", "3s"]) as cluster:
            wait_for(lambda: "CONNECTED" in cluster.hamctl("workers").stdout, "the first worker")
            first = cluster.workers["worker-0"]
            second = cluster.start_worker("worker-0", state="other-state")
            try:
                self.assertEqual(second.wait(timeout=60), 1)
                self.assertIn("worker-0", (cluster.path / "worker-0.log").read_text())
            finally:
                cluster.workers["worker-0"] = first

    def test_damaged_data_is_named_by_the_worker(self):
        with Cluster(workers=0) as cluster:
            folder = cluster.path / "data" / "fashion-mnist"
            folder.mkdir(parents=True)
            source = pathlib.Path("/usr/share/datasets/fashion-mnist")
            for file in source.iterdir():
                (folder / file.name).write_bytes(file.read_bytes()[:-1000])
            cluster.data_root = cluster.path / "data"
            cluster.start_worker("worker-0")
            wait_for(lambda: "train-images" in (cluster.path / "worker-0.log").read_text(), "the warning")
            listed = wait_for(lambda: "CONNECTED" in (out := cluster.hamctl("workers").stdout) and out, "the worker")
            self.assertNotIn("fashion-mnist", listed)

    def test_no_server_is_exit_3(self):
        with Cluster(workers=0) as cluster:
            cluster.coordinator.terminate()
            self.assertEqual(cluster.coordinator.wait(timeout=30), 0)
            cluster.hamctl("--timeout", "3s", "list", check=3)


if __name__ == "__main__":
    xml_runner.main()
