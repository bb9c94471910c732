"""What operators do: upgrade, read logs, collect what a report of a problem needs; and what they get wrong."""
import contextlib
import gzip
import json
import os
import pathlib
import sqlite3
import subprocess
import sys
import tempfile
import unittest
import zipfile

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "support"))
import xml_runner  # noqa: E402
from cluster import BIN, Cluster, spec, wait_for  # noqa: E402

# State of release 0.1.0: a queued job with the label team=vision, of request "first"; a cancelled one, of "second".
OLD_STORE = pathlib.Path(__file__).resolve().parents[1] / "golden" / "ham-0.1.0.db.gz"
QUEUED, CANCELLED = (f"projects/default/jobs/{job}" for job in ("jztcqlb9u6a", "j0vorecii2b"))


@contextlib.contextmanager
def old_state():
    """A folder for a Cluster whose coordinator was of an old release."""
    with tempfile.TemporaryDirectory(prefix="ham-e2e-") as folder:
        state = pathlib.Path(folder) / "state"
        (state / "artifacts" / "unfinished").mkdir(parents=True)
        (state / "ham.db").write_bytes(gzip.decompress(OLD_STORE.read_bytes()))
        yield pathlib.Path(folder)


def refused(*arguments, user=None):
    """What a coordinator says that does not start."""
    done = subprocess.run([str(BIN / "ham-coordinator"), *map(str, arguments)], capture_output=True, text=True,
                          timeout=60, user=user)
    assert done.returncode in (1, 2), done
    return done.stderr


class Upgrade(unittest.TestCase):
    def test_the_state_of_an_old_release_goes_on(self):
        with old_state() as folder, Cluster(workers=0, folder=folder) as cluster:
            self.assertEqual(cluster.job(QUEUED)["labels"], {"team": "vision"})
            self.assertEqual(cluster.job(CANCELLED)["state"], "CANCELLED")
            reasons = [record["event"]["reason"] for record in cluster.records(CANCELLED)]
            self.assertEqual((reasons[0], reasons[-1]), ("SUBMITTED", "CANCEL_REQUESTED"))
            self.assertEqual(cluster.submit(spec(world_size=1, epochs=1), "--request-id", "third").count("/"), 3)
            cluster.start_worker("worker-0")
            cluster.wait_state(QUEUED, "SUCCEEDED")

    def test_a_backup_of_an_old_release_is_restored(self):
        with old_state() as folder:
            for command in (["backup", "--state-dir", folder / "state", folder / "backup"],
                            ["restore", "--from", folder / "backup", "--state-dir", folder / "new"]):
                subprocess.run([str(BIN / "ham-coordinator"), *map(str, command)], check=True, timeout=60,
                               capture_output=True)
            (folder / "state").rename(folder / "before")
            (folder / "new").rename(folder / "state")
            with Cluster(workers=0, folder=folder) as cluster:
                self.assertEqual(cluster.job(QUEUED)["state"], "QUEUED")

    def test_a_downgrade_is_refused_in_words_and_changes_nothing(self):
        with old_state() as folder:
            store = folder / "state" / "ham.db"
            with contextlib.closing(sqlite3.connect(store)) as database:
                database.execute("PRAGMA user_version = 2")
            before = store.read_bytes()
            said = refused("--state-dir", folder / "state", "--listen", "127.0.0.1:0", "--metrics-listen", "")
            self.assertIn("schema version 2", said)
            self.assertEqual(store.read_bytes(), before)


class Logs(unittest.TestCase):
    def test_lines_of_json_lead_from_a_request_to_its_ranks(self):
        with Cluster(workers=0, options=["--log-format", "json"]) as cluster:
            cluster.start_worker("worker-0", options=["--log-format", "json"])
            name = cluster.submit(spec(world_size=1, epochs=1), "--request-id", "r-1")
            cluster.wait_state(name, "SUCCEEDED")

            def lines(program):
                return [json.loads(line) for line in (cluster.path / f"{program}.log").read_text().splitlines()]

            wait_for(lambda: any("ended" in line["message"] for line in lines("worker-0")), "the end of the rank")
            asked = [line for line in lines("coordinator") if line.get("request_id") == "r-1"]
            self.assertEqual([line["job"] for line in asked], [name])
            reasons = [line["reason"] for line in lines("coordinator") if line.get("job") == name and "reason" in line]
            self.assertEqual((reasons[0], "GANG_PLACED" in reasons), ("SUBMITTED", True))
            ranks = [(line["attempt"], line["rank"], line["program"]) for line in lines("worker-0")
                     if line.get("job") == name]
            self.assertEqual(set(ranks), {(1, 0, "ham-worker")})


class DebugBundle(unittest.TestCase):
    def test_it_holds_what_is_known_and_no_secret(self):
        with Cluster(workers=1) as cluster:
            name = cluster.submit(spec(world_size=1, epochs=1))
            cluster.wait_state(name, "SUCCEEDED")
            secrets = [json.loads((cluster.path / "state" / file).read_text())["token"]
                       for file in ("bootstrap", "worker-join")]
            log = cluster.path / "mine.log"
            log.write_text((cluster.path / "state" / "worker-join").read_text() + f"token {secrets[0]}\n" +
                           (cluster.path / "state" / "ca.key").read_text() + "kept\n")
            bundle = cluster.path / "bundle.zip"
            said = cluster.hamctl("debug", "bundle", "--file", bundle, "--add", log, "--add", log).stdout
            self.assertIn(str(bundle), said)
            self.assertEqual(bundle.stat().st_mode & 0o777, 0o600)
            with zipfile.ZipFile(bundle) as archive:
                files = {entry: archive.read(entry).decode() for entry in archive.namelist()}
            job = f"jobs/{name.split('/')[-1]}"
            self.assertLessEqual({"bundle.json", "coordinator.json", "workers.json", "jobs.json", f"{job}/job.json",
                                  f"{job}/records.jsonl"}, set(files))
            self.assertEqual(json.loads(files["bundle.json"])["missing"], [])
            self.assertEqual(json.loads(files[f"{job}/job.json"])["state"], "SUCCEEDED")
            records = [json.loads(line) for line in files[f"{job}/records.jsonl"].splitlines()]
            self.assertEqual(records, cluster.records(name))
            added = next(text for entry, text in files.items() if entry.endswith("mine.log"))
            self.assertTrue(added.endswith("kept\n"), added)
            for secret in [*secrets, "PRIVATE KEY-----\nM"]:
                self.assertFalse([entry for entry, text in files.items() if secret in text])
            self.assertIn("exists", cluster.hamctl("debug", "bundle", "--file", bundle, check=2).stderr)

    def test_without_a_coordinator_it_says_what_is_missing(self):
        with Cluster(workers=0) as cluster:
            cluster.coordinator.kill()
            cluster.coordinator.wait()
            bundle = cluster.path / "bundle.zip"
            said = cluster.hamctl("--timeout", "2s", "debug", "bundle", "--file", bundle, "--add",
                                  cluster.path / "coordinator.log").stdout
            self.assertIn("could not be had", said)
            with zipfile.ZipFile(bundle) as archive:
                about = json.loads(archive.read("bundle.json"))
                self.assertEqual([one["name"] for one in about["missing"]], ["coordinator.json"])
                self.assertTrue(any(entry.endswith("coordinator.log") for entry in archive.namelist()))

    def test_what_cannot_be_read_or_written_is_named(self):
        with Cluster(workers=0) as cluster:
            nowhere = cluster.path / "nowhere" / "bundle.zip"
            self.assertIn(str(nowhere), cluster.hamctl("debug", "bundle", "--file", nowhere, check=1).stderr)
            self.assertIn("/nowhere.log", cluster.hamctl("debug", "bundle", "--add", "/nowhere.log", check=2).stderr)
            unknown = cluster.path / "unknown.zip"
            cluster.hamctl("debug", "bundle", "--file", unknown, "--job", "jnone", "--job", "jnone")
            with zipfile.ZipFile(unknown) as archive:
                missing = json.loads(archive.read("bundle.json"))["missing"]
            self.assertEqual([one["name"] for one in missing], ["jobs/jnone/job.json"])


class Join(unittest.TestCase):
    def test_one_line_makes_a_host_a_worker(self):
        with Cluster(workers=0) as cluster:
            line = cluster.coordinator_command("join-command", "--state-dir", cluster.path / "state").split()
            self.assertEqual(line[:2], ["ham-worker", "join"])
            self.assertTrue(line[2].endswith(f"@{cluster.listen}"), line)
            home = cluster.path / "home"
            worker = subprocess.Popen([str(BIN / "ham-worker"), *line[1:], "--name", "laptop", "--slots", "1"],
                                      env={**os.environ, "XDG_STATE_HOME": str(home)}, stderr=subprocess.PIPE, text=True)
            try:
                wait_for(lambda: "CONNECTED" in cluster.hamctl("workers").stdout, "the worker")
                cluster.wait_state(cluster.submit(spec(world_size=1, epochs=1)), "SUCCEEDED")
            finally:
                worker.terminate()
                worker.communicate(timeout=60)
            self.assertTrue((home / "ham" / "worker").is_dir())

    def test_a_token_of_another_cluster_is_refused_and_its_secret_stays(self):
        with Cluster(workers=0) as cluster:
            join = cluster.coordinator_command("join-command", "--state-dir", cluster.path / "state").split()[2]
            secret = join.split(".")[1].split("@")[0]
            for what, words in (("0" * 64 + join[64:], "is not of the cluster that made this token"),
                                (join[:64] + ".wrong@" + cluster.listen, "worker-join"),
                                (join[:10], "not of the form")):
                done = subprocess.run([str(BIN / "ham-worker"), "join", what, "--name", "laptop", "--slots", "1",
                                       "--state-dir", str(cluster.path / "laptop")], capture_output=True, text=True,
                                      timeout=60)
                self.assertIn(done.returncode, (1, 2))
                self.assertIn(words, done.stderr)
                self.assertNotIn(secret, done.stderr)

    def test_without_tls_there_is_no_token(self):
        with Cluster(workers=0, options=["--insecure"]) as cluster:
            self.assertIn("--insecure", refused("join-command", "--state-dir", cluster.path / "state"))


class Configuration(unittest.TestCase):
    def test_a_file_of_options_is_used(self):
        with tempfile.TemporaryDirectory() as folder:
            config = pathlib.Path(folder) / "coordinator.conf"
            config.write_text("lease = 5s\nkeep-checkpoints = 3\n")
            with Cluster(workers=1, options=["--config", config]) as cluster:
                wait_for(lambda: "CONNECTED" in cluster.hamctl("workers").stdout, "the worker")
            config.write_text("lease = 5s\nkeep_checkpoints = 3\n")
            said = refused("--config", config, "--state-dir", pathlib.Path(folder) / "state")
            self.assertIn(f'{config} has the unknown option "keep_checkpoints"', said)

    def test_a_certificate_that_cannot_be_read_is_named(self):
        with Cluster(workers=0) as cluster:
            cluster.coordinator.terminate()
            cluster.coordinator.wait(timeout=30)
            certificate = cluster.path / "state" / "server.pem"
            certificate.write_text("no certificate\n")
            said = refused("--state-dir", cluster.path / "state", "--listen", "127.0.0.1:0", "--metrics-listen", "")
            self.assertIn("server.pem or ca.pem in the state directory is no certificate", said)

    @unittest.skipUnless(os.getuid() == 0, "needs root, to be somebody else")
    def test_a_state_directory_of_somebody_else_is_named(self):
        with tempfile.TemporaryDirectory() as folder:
            os.chmod(folder, 0o755)
            state = pathlib.Path(folder) / "state"
            state.mkdir(mode=0o700)
            said = refused("--state-dir", state, "--listen", "127.0.0.1:0", "--metrics-listen", "", user="nobody")
            self.assertIn(str(state), said)
            self.assertIn("Permission denied", said)


if __name__ == "__main__":
    xml_runner.main()
