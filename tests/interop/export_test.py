"""deploy/export_pytorch.py on state dicts as PyTorch's users save them. Needs torch.

  export_test.py HAM_TRAINER
"""
import contextlib
import io
import pathlib
import sys
import tempfile
import unittest

import torch
from torch import nn

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "deploy"), str(ROOT / "tests" / "interop")]
from export_pytorch import main, read_safetensors  # noqa: E402
from pytorch_peer import MODELS, make  # noqa: E402

MEAN, DEVIATION = (0.4914, 0.4822, 0.4465), (0.2471, 0.2435, 0.2616)


class ExportTest(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.weights, self.out = self.folder / "weights.pth", self.folder / "out.safetensors"

    def export(self, name, content, *options):
        torch.save(content, self.weights)
        printed = io.StringIO()
        try:
            with contextlib.redirect_stdout(printed):
                main([str(argument) for argument in [name, self.weights, self.out, "--trainer", sys.argv[1], *options]])
        except SystemExit as error:
            return error.code, printed.getvalue()
        return 0, printed.getvalue()

    def assert_exported(self, done):
        self.assertEqual(done[0], 0)
        self.assertTrue(self.out.exists())

    def assert_refused(self, done, reason):
        self.assertIn(reason, str(done[0]))
        self.assertEqual([path.name for path in self.folder.iterdir() if "safetensors" in path.name], [])

    def outputs(self, model, shape, **changes):
        images = torch.rand(20, *shape)
        with torch.no_grad():
            outputs = {"images": images, "logits": model(images)} | changes
        torch.save(outputs, self.folder / "outputs.pt")
        return self.folder / "outputs.pt"

    def test_logits_of_all_models(self):
        for name in MODELS:
            if name.startswith("wrn"):
                continue  # as published they are large; their tensors are checked by pytorch_peer.py
            with self.subTest(name):
                model, shape = make(name, 0)
                model.float()
                done = self.export(name, model.state_dict(), "--check", self.outputs(model, shape))
                self.assert_exported(done)
                self.assertIn("logits of 20 images differ by", done[1])

    def test_nested_and_parallel(self):
        model, shape = make("cnn-wong-kolter", 0)
        state = model.float().state_dict()
        parallel = nn.DataParallel(model).state_dict()
        for content in ({"state_dict": parallel, "epoch": 3}, {"net": state}, {"model": parallel}):
            self.assert_exported(self.export("cnn-wong-kolter", content))
            tensors, _ = read_safetensors(self.out)
            self.assertEqual(set(tensors), set(state))
            for key, value in state.items():
                self.assertTrue(torch.equal(tensors[key], value))
            self.out.unlink()

    def test_a_function_makes_the_network(self):
        (self.folder / "my_models.py").write_text(
            f"import sys\nsys.path.insert(0, {str(ROOT / 'tests/interop')!r})\n"
            "import pytorch_peer\ndef make():\n    return pytorch_peer.SmallCnn(16)\n")
        model, _ = make("cnn-16-32", 0)
        source = f"{self.folder}/my_models.py:make"
        self.assert_exported(self.export("cnn-16-32", nn.DataParallel(model.float()).state_dict(), "--check", source))

    def test_normalization_travels_and_is_checked(self):
        model, shape = make("resnet-18", 0)
        model.float()
        mean, deviation = (torch.tensor(numbers).view(3, 1, 1) for numbers in (MEAN, DEVIATION))
        outputs = self.outputs(lambda x: model((x - mean) / deviation), shape)
        self.assert_refused(self.export("resnet-18", model.state_dict(), "--check", outputs), "normalise")
        self.assert_exported(self.export("resnet-18", model.state_dict(), "--check", outputs, "--mean",
                                         ",".join(map(str, MEAN)), "--standard-deviation", ",".join(map(str, DEVIATION))))

    def test_what_is_no_such_model_is_refused(self):
        model, shape = make("cnn-16-32", 0)
        state = model.float().state_dict()
        outputs = self.outputs(model, shape)
        wider, _ = make("cnn-32-64", 0)
        self.assert_refused(self.export("cnn-16-32", wider.float().state_dict(), "--check", outputs), "conv1.weight")
        renamed = {("conv0.weight" if key == "conv1.weight" else key): value for key, value in state.items()}
        self.assert_refused(self.export("cnn-16-32", renamed, "--check", outputs), "conv0.weight")
        missing = {key: value for key, value in state.items() if key != "fc2.bias"}
        self.assert_refused(self.export("cnn-16-32", missing, "--check", outputs), "fc2.bias")
        other = self.outputs(model, shape, logits=torch.rand(20, 10))
        self.assert_refused(self.export("cnn-16-32", state, "--check", other), "logits differ by")
        fewer = self.outputs(model, shape, logits=torch.rand(20, 9))
        self.assert_refused(self.export("cnn-16-32", state, "--check", fewer), "shape")
        self.assert_refused(self.export("cnn-16-32", {"weights": state}), "no state dict")
        self.assert_refused(self.export("cnn-16-32", model), "save model.state_dict()")
        self.assert_refused(self.export("cnn-16-32", state | {"mask": torch.ones(3, dtype=torch.bool)}), "torch.bool")


if __name__ == "__main__":
    torch.set_num_threads(1)
    unittest.main(argv=sys.argv[:1])
