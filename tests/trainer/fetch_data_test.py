"""deploy/fetch_data.sh against a server on loopback."""
import hashlib
import http.server
import io
import os
import pathlib
import subprocess
import sys
import tarfile
import tempfile
import threading
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "tests" / "support"))
import xml_runner  # noqa: E402


class Server(http.server.ThreadingHTTPServer):
    """Serves `files`, ranges too; closes the connection of the first answers after as many bytes as `cuts` says."""

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.files, self.cuts, self.requests, self.ranges = {}, [], [], True
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        wanted = self.headers.get("Range")
        self.server.requests.append((self.path, wanted))
        body = self.server.files.get(self.path)
        if body is None:
            self.send_error(404)
            return
        begin = 0
        if wanted and self.server.ranges:
            begin = int(wanted.removeprefix("bytes=").split("-")[0])
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {begin}-{len(body) - 1}/{len(body)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(body) - begin))
        self.end_headers()
        cut = self.server.cuts.pop(0) if self.server.cuts else len(body)
        self.wfile.write(body[begin:begin + cut])

    def log_message(self, *_):
        pass


def md5(data):
    return hashlib.md5(data).hexdigest()


def tar_gz(files):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w:gz") as archive:
        for name, data in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return out.getvalue()


class FetchData(unittest.TestCase):
    def setUp(self):
        temporary = tempfile.TemporaryDirectory()
        self.addCleanup(temporary.cleanup)
        self.root = pathlib.Path(temporary.name)
        self.server = Server()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.plain = os.urandom(300_000)
        self.packed = tar_gz({"official/a.bin": b"aaa", "official/sub/b.bin": b"bbb", "elsewhere": b"ccc"})
        self.server.files = {"/plain.gz": self.plain, "/packed.tar.gz": self.packed}

    def fetch(self, table, name="toy"):
        path = self.root / "table"
        path.write_text("".join(line + "\n" for line in table))
        return subprocess.run(
            [str(ROOT / "deploy" / "fetch_data.sh"), name, str(self.root / "data")], capture_output=True, text=True,
            env={**os.environ, "HAM_FETCH_TABLE": str(path), "no_proxy": "127.0.0.1",
                 "HAM_FETCH_BASE": f"http://127.0.0.1:{self.server.server_port}"})

    def assert_works(self, table):
        done = self.fetch(table)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stderr

    def found(self):
        folder = self.root / "data" / "toy"
        return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}

    def test_files_are_kept_and_archives_unpacked(self):
        self.assert_works([f"http://publisher/x/plain.gz {md5(self.plain)} -",
                           f"http://publisher/packed.tar.gz {md5(self.packed)} official"])
        self.assertEqual(self.found(), {"plain.gz": self.plain, "a.bin": b"aaa", "sub/b.bin": b"bbb"})
        self.assertEqual(os.listdir(self.root / "data"), ["toy"])

    def test_a_cut_transfer_goes_on_where_it_was(self):
        self.server.cuts = [100_000]
        table = [f"http://publisher/plain.gz {md5(self.plain)} -"]
        first = self.fetch(table)
        if first.returncode != 0:  # curls that do not try again by themselves
            self.assertIn("run this again", first.stderr)
            self.assertFalse((self.root / "data" / "toy").exists())
            self.assert_works(table)
        self.assertEqual(self.found(), {"plain.gz": self.plain})
        self.assertEqual(self.server.requests[-1][1], "bytes=100000-")

    def test_a_server_without_ranges_is_asked_for_all(self):
        self.server.cuts = [100_000]
        self.server.ranges = False
        table = [f"http://publisher/plain.gz {md5(self.plain)} -"]
        if self.fetch(table).returncode != 0:
            self.assert_works(table)
        self.assertEqual(self.found(), {"plain.gz": self.plain})

    def test_a_stop_between_files_fetches_only_the_rest(self):
        table = [f"http://publisher/plain.gz {md5(self.plain)} -",
                 f"http://publisher/packed.tar.gz {md5(self.packed)} official"]
        del self.server.files["/packed.tar.gz"]
        failed = self.fetch(table)
        self.assertNotEqual(failed.returncode, 0)
        self.assertIn("packed.tar.gz failed", failed.stderr)
        self.assertFalse((self.root / "data" / "toy").exists())
        self.server.files["/packed.tar.gz"] = self.packed
        self.server.requests.clear()
        self.assert_works(table)
        self.assertEqual({path for path, _ in self.server.requests}, {"/packed.tar.gz"})

    def test_a_wrong_file_is_refused_and_not_kept(self):
        table = [f"http://publisher/plain.gz {md5(b'another')} -"]
        for _ in range(2):
            refused = self.fetch(table)
            self.assertNotEqual(refused.returncode, 0)
            self.assertIn(f"has MD5 {md5(self.plain)}, not {md5(b'another')}", refused.stderr)
        self.assertFalse((self.root / "data" / "toy").exists())
        self.assert_works([f"http://publisher/plain.gz {md5(self.plain)} -"])

    def test_what_is_there_is_left_alone(self):
        (self.root / "data" / "toy").mkdir(parents=True)
        refused = self.fetch([f"http://publisher/plain.gz {md5(self.plain)} -"])
        self.assertNotEqual(refused.returncode, 0)
        self.assertIn("data inspect", refused.stderr)
        self.assertEqual(self.found(), {})

    def test_a_file_without_a_digest_is_said_to_be_unverified(self):
        self.assertIn("was not verified", self.assert_works(["http://publisher/plain.gz - -"]))

    def test_wrong_names_are_refused(self):
        self.assertIn("no name", self.fetch([], name="../x").stderr)
        self.assertIn("no files", self.fetch([], name="toy").stderr)
        asked = subprocess.run([str(ROOT / "deploy" / "fetch_data.sh"), "letters", str(self.root / "data")],
                               capture_output=True, text=True)
        self.assertNotEqual(asked.returncode, 0)
        self.assertIn('"letters" is unknown', asked.stderr)

    def test_the_program_says_what_to_fetch(self):
        said = subprocess.run([os.environ["HAM_TRAINER"], "data", "urls", "cifar-10"], capture_output=True, text=True)
        self.assertEqual(said.returncode, 0, said.stderr)
        for line in said.stdout.splitlines():
            url, digest, folder = line.split(" ")
            self.assertTrue(url.startswith("http"), url)
            self.assertEqual(len(digest), 32)
            self.assertEqual(folder, "cifar-10-batches-bin")


if __name__ == "__main__":
    xml_runner.main()
