#!/usr/bin/env python3
"""The engine beside plain PyTorch: models written as PyTorch users write them, and one HAM step.

  pytorch_peer.py interop ENGINE_PEER [--full]       weights both ways, logits of all models; status 1 on a difference
  pytorch_peer.py step ENGINE_PEER MODEL WIDTH       one HAM step in float64 and float32, as JSON; width 0: as published
  pytorch_peer.py record MODEL WIDTH OUT.safetensors the same step, float64, for interop_test.cc

Needs torch. CPU, one thread, seeds fixed.
"""
import json
import pathlib
import subprocess
import sys
import tempfile

import torch
from torch import nn
from torch.nn import functional as F

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[2] / "deploy"))
from export_pytorch import read_safetensors, write_safetensors  # noqa: E402

STEPS, MINING_STEP = 10, 3
SAMPLES = 16


class PreActBlock(nn.Module):
    def __init__(self, inside, out, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        if stride != 1 or inside != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False))

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = self.shortcut(out) if hasattr(self, "shortcut") else x
        return self.conv2(F.relu(self.bn2(self.conv1(out)))) + shortcut


class BasicBlock(nn.Module):
    def __init__(self, inside, out, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.shortcut = nn.Sequential()
        if stride != 1 or inside != out:
            self.shortcut = nn.Sequential(nn.Conv2d(inside, out, 1, stride, bias=False), nn.BatchNorm2d(out))

    def forward(self, x):
        return F.relu(self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x))))) + self.shortcut(x))


class ResNet18(nn.Module):
    def __init__(self, width, preactivation):
        super().__init__()
        self.conv1 = nn.Conv2d(3, width, 3, 1, 1, bias=False)
        block = PreActBlock if preactivation else BasicBlock
        self.preactivation = preactivation
        if not preactivation:
            self.bn1 = nn.BatchNorm2d(width)
        inside = width
        for stage in range(4):
            out = width << stage
            blocks = [block(inside, out, 1 if stage == 0 else 2), block(out, out, 1)]
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))
            inside = out
        if preactivation:
            self.bn = nn.BatchNorm2d(inside)
        self.linear = nn.Linear(inside, 10)

    def forward(self, x):
        x = self.conv1(x)
        if not self.preactivation:
            x = F.relu(self.bn1(x))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        if self.preactivation:
            x = F.relu(self.bn(x))
        return self.linear(F.adaptive_avg_pool2d(x, 1).flatten(1))


class WideBlock(nn.Module):
    def __init__(self, inside, out, stride):
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv1 = nn.Conv2d(inside, out, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(out)
        self.conv2 = nn.Conv2d(out, out, 3, 1, 1, bias=False)
        self.convShortcut = nn.Conv2d(inside, out, 1, stride, bias=False) if inside != out else None

    def forward(self, x):
        out = F.relu(self.bn1(x))
        shortcut = x if self.convShortcut is None else self.convShortcut(out)
        return shortcut + self.conv2(F.relu(self.bn2(self.conv1(out))))


class WideStage(nn.Module):
    def __init__(self, blocks, inside, out, stride):
        super().__init__()
        self.layer = nn.Sequential(*[WideBlock(inside if i == 0 else out, out, stride if i == 0 else 1)
                                     for i in range(blocks)])

    def forward(self, x):
        return self.layer(x)


class WideResNet(nn.Module):
    def __init__(self, depth, widen, extra_block=False):
        super().__init__()
        blocks = (depth - 4) // 6
        self.conv1 = nn.Conv2d(3, 16, 3, 1, 1, bias=False)
        self.block1 = WideStage(blocks, 16, 16 * widen, 1)
        if extra_block:
            self.sub_block1 = WideStage(blocks, 16, 16 * widen, 1)
        self.block2 = WideStage(blocks, 16 * widen, 32 * widen, 2)
        self.block3 = WideStage(blocks, 32 * widen, 64 * widen, 2)
        self.bn1 = nn.BatchNorm2d(64 * widen)
        self.fc = nn.Linear(64 * widen, 10)

    def forward(self, x):
        x = F.relu(self.bn1(self.block3(self.block2(self.block1(self.conv1(x))))))
        return self.fc(F.adaptive_avg_pool2d(x, 1).flatten(1))


class SmallCnn(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.conv1 = nn.Conv2d(1, width, 3, padding=1)
        self.conv2 = nn.Conv2d(width, 2 * width, 3, padding=1)
        self.fc1 = nn.Linear(2 * width * 49, 128)
        self.fc2 = nn.Linear(128, 10)

    def forward(self, x):
        x = F.max_pool2d(F.relu(self.conv1(x)), 2)
        x = F.max_pool2d(F.relu(self.conv2(x)), 2)
        return self.fc2(F.relu(self.fc1(x.flatten(1))))


def wong_kolter(width):
    return nn.Sequential(nn.Conv2d(1, width, 4, 2, 1), nn.ReLU(), nn.Conv2d(width, 2 * width, 4, 2, 1), nn.ReLU(),
                         nn.Flatten(), nn.Linear(98 * width, 100), nn.ReLU(), nn.Linear(100, 10))


# name: (maker of a width, published width, narrow width, channels, size)
MODELS = {
    "preact-resnet-18": (lambda w: ResNet18(w, True), 64, 8, 3, 32),
    "resnet-18": (lambda w: ResNet18(w, False), 64, 8, 3, 32),
    "wrn-28-10": (lambda w: WideResNet(28, w), 10, 1, 3, 32),
    "wrn-34-10": (lambda w: WideResNet(34, w), 10, 1, 3, 32),
    "wrn-34-10 extra_block": (lambda w: WideResNet(34, w, True), 10, 1, 3, 32),
    "cnn-16-32": (SmallCnn, 16, 16, 1, 28),
    "cnn-32-64": (SmallCnn, 32, 32, 1, 28),
    "cnn-wong-kolter": (wong_kolter, 16, 16, 1, 28),
}


def epsilon_of(name):
    """A radius at which some rows of an untrained network are hard and some are not; steps are a quarter of it."""
    return 3 / 255 if name.startswith("cnn") else 8 / 255


def make(name, width):
    """A network with statistics and scales as after some training, float64 of float32 numbers, in evaluation mode."""
    torch.manual_seed(1)
    maker, published, _, channels, size = MODELS[name]
    model = maker(width or published)
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.uniform_(-0.2, 0.2)
            module.running_var.uniform_(0.5, 1.5)
            module.weight.data.uniform_(0.5, 1.5)
            module.bias.data.uniform_(-0.2, 0.2)
    return model.double().eval(), (channels, size, size)


def with_prefix(prefix, tensors):
    return {prefix + name: tensor for name, tensor in tensors.items()}


def without_prefix(prefix, tensors):
    return {name[len(prefix):]: tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def ask(peer, command, tensors, metadata):
    with tempfile.TemporaryDirectory() as folder:
        write_safetensors(f"{folder}/in", tensors, metadata)
        done = subprocess.run([peer, command, f"{folder}/in", f"{folder}/out"], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"{metadata['model']}: {done.stderr}")
        return read_safetensors(f"{folder}/out")[0]


def metadata_of(name, width):
    plain, *extra = name.split()
    return {"model": plain, "width": str(width), "epsilon": repr(epsilon_of(name)),
            "step_size": repr(epsilon_of(name) / 4), "steps": str(STEPS), "mining_step": str(MINING_STEP),
            **{key: "true" for key in extra}}


def interop(peer, full):
    """PyTorch's weights -> the engine -> its exported file -> a fresh model, loaded strictly: the same logits."""
    failed = False
    for name, (_, _, narrow, *_) in MODELS.items():
        width = 0 if full else narrow
        reference, shape = make(name, width)
        x = torch.rand(20, *shape, dtype=torch.float64)
        for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
            model, images = reference.to(dtype), x.to(dtype)
            with torch.no_grad():
                expected = model(images)
            answer = ask(peer, "logits", with_prefix("weights.", model.state_dict()) | {"x": images},
                         metadata_of(name, width))
            fresh, _ = make(name, width)
            fresh = fresh.to(dtype)
            for parameter in fresh.parameters():
                parameter.data.zero_()
            weights = without_prefix("weights.", answer)
            counters = {key: value for key, value in fresh.state_dict().items() if key.endswith("num_batches_tracked")}
            fresh.load_state_dict(weights | counters, strict=True)
            with torch.no_grad():
                again = fresh(images)
            scale = expected.abs().max()
            errors = [float((logits - expected).abs().max() / scale) for logits in (answer["logits"], again)]
            ok = max(errors) <= bound
            failed |= not ok
            print(f"{'ok' if ok else 'DIFFERENT'}  {name} width {width} {dtype}: engine {errors[0]:.1e}, exported "
                  f"{errors[1]:.1e}, allowed {bound:.0e}", flush=True)
    return 1 if failed else 0


def input_gradient(model, x, y):
    x = x.detach().requires_grad_(True)
    return torch.autograd.grad(F.cross_entropy(model(x), y, reduction="sum"), x)[0]


def ascend(clean, x, gradient, epsilon):
    x = x + epsilon / 4 * gradient.sign()
    return torch.min(torch.max(x, clean - epsilon), clean + epsilon).clamp(0, 1)


def problem(name, width, rows):
    model, shape = make(name, width)
    x = torch.rand(rows, *shape).double()
    with torch.no_grad():
        y = model(x).argmax(1)
    y[::4] = (y[::4] + 1) % 10
    start = (x + torch.empty_like(x).uniform_(-epsilon_of(name), epsilon_of(name))).clamp(0, 1).float().double()
    return model, x, y, start


def attack(model, x, y, start, epsilon):
    """The iterates x_0 ... x_K, of hard rows alone from x_M on, and the mask."""
    points = [start]
    for _ in range(MINING_STEP):
        points.append(ascend(x, points[-1], input_gradient(model, points[-1], y), epsilon))
    with torch.no_grad():
        hard = model(points[-1]).argmax(1) != y
    points[-1] = points[-1][hard]
    for _ in range(STEPS - MINING_STEP):
        points.append(ascend(x[hard], points[-1], input_gradient(model, points[-1], y[hard]), epsilon))
    return points, hard


def train(model, x_adv, y):
    """Loss and gradients in training mode at x_adv; the running statistics behind it. Leaves the model as it was."""
    before = {key: value.clone() for key, value in model.state_dict().items()}
    model.train()
    model.zero_grad()
    loss = F.cross_entropy(model(x_adv), y)
    loss.backward()
    out = {"loss": loss.detach().double()}
    out |= {"gradient." + key: (torch.zeros_like(p) if p.grad is None else p.grad.clone())
            for key, p in model.named_parameters()}
    out |= {"after." + key: value.clone() for key, value in model.state_dict().items() if "running_" in key}
    model.load_state_dict(before)
    model.eval()
    return out


def at_a_kink(model, x):
    """Rows for which a number that goes into a ReLU is nearer to 0 than float32 can tell: its sign, and with it a whole
    share of the gradient, hangs on the order of sums."""
    nearest = torch.full((len(x),), torch.inf, dtype=torch.float64)
    relu = F.relu

    def watched(z, inplace=False):
        sizes = z.detach().flatten(1).abs().double()
        torch.minimum(nearest, sizes.amin(1) / sizes.amax(1), out=nearest)
        return relu(z)

    F.relu = watched
    with torch.no_grad():
        model(x)
    F.relu = relu
    return nearest < 1e-6


def distance(a, b):
    """Relative, of norms."""
    a, b = a.double(), b.double()
    return float((a - b).norm() / b.norm()) if b.norm() > 0 else float(a.norm())


def step(peer, name, width, rows):
    model, x, y, start = problem(name, width, rows)
    points, hard = attack(model, x, y, start, epsilon_of(name))
    expected = train(model, points[-1], y[hard])
    metadata = metadata_of(name, width)
    given = with_prefix("weights.", model.state_dict()) | {"x": x, "y": y, "start": start}
    ours = ask(peer, "step", given, metadata)
    result = {"model": name, "width": width or MODELS[name][1], "rows": rows, "hard_rows": int(hard.sum()),
              "float64": {"mask_differs": int((ours["hard"].bool() != hard).sum())}}
    if result["float64"]["mask_differs"] == 0:
        # The same steps in another order of sums: pixels are equal but for the last bits of the arithmetic.
        result["float64"]["pixels_differ"] = int(((ours["x_adv"] - points[-1]).abs() > 1e-12).sum())
        errors = {key: distance(ours[key], expected[key]) for key in expected}
        result["float64"]["worst"] = max(errors.values())
        result["float64"]["worst_tensor"] = max(errors, key=errors.get)

    # float32: each step from the reference's points; what it should be is float64's at the same numbers.
    model.float()
    x, start = x.float(), start.float()
    points, hard = attack(model, x, y, start, epsilon_of(name))
    given = with_prefix("weights.", model.state_dict()) | {"x": x, "y": y, "hard": hard.long()}
    first = ascend(x, points[MINING_STEP - 1], input_gradient(model, points[MINING_STEP - 1], y),
                   epsilon_of(name))
    ours = ask(peer, "step", given | {f"x_{k}": point for k, point in enumerate(points)}, metadata)
    theirs = train(model, points[-1], y[hard])
    exact_model, _ = make(name, width)
    exact = train(exact_model, points[-1].double(), y[hard])
    differ = close = kinks = 0
    for k in range(STEPS):
        rows_of = slice(None) if k < MINING_STEP else hard
        following = first if k == MINING_STEP - 1 else points[k + 1]
        gradient = input_gradient(exact_model, points[k].double(), y[rows_of]).abs()
        clear = gradient > 1e-5 * gradient.amax(dim=(1, 2, 3), keepdim=True)
        apart = (ours[f"next_{k + 1}"] - following).abs() > 1e-6
        kink = at_a_kink(exact_model, points[k].double()).view(-1, 1, 1, 1)
        differ += int((apart & clear & ~kink).sum())
        kinks += int((apart & clear & kink).sum())
        close += int((apart & ~clear).sum())

    def whole(tensors):
        return torch.cat([tensors[key].double().flatten() for key in exact if key.startswith("gradient.")])

    result["float32"] = {
        "pixels_differ": differ, "pixels_differ_at_kinks": kinks, "pixels_differ_below_1e-5": close,
        "gradient_error": distance(whole(ours), whole(exact)),
        "pytorch_gradient_error": distance(whole(theirs), whole(exact)),
        "loss_error": distance(ours["loss"], exact["loss"]),
        "pytorch_loss_error": distance(theirs["loss"], exact["loss"]),
    }
    return result


def record(name, width, rows, path):
    """What is given in float32, which holds it exactly, and behind "expected." what comes of it: of tensors of weights
    the norm and, behind "sample.", SAMPLES elements."""
    model, x, y, start = problem(name, width, rows)
    points, hard = attack(model, x, y, start, epsilon_of(name))
    given = with_prefix("weights.", model.state_dict()) | {"x": x, "start": start}
    given = {key: value.float() if value.is_floating_point() else value for key, value in given.items()}
    trained = train(model, points[-1], y[hard])
    expected = {"hard": hard.long(), "x_adv": points[-1], "loss": trained.pop("loss")}
    expected |= {key: tensor.norm() for key, tensor in trained.items()}
    expected |= {"sample." + key: tensor.flatten()[::max(1, tensor.numel() // SAMPLES)][:SAMPLES]
                 for key, tensor in trained.items()}
    write_safetensors(path, given | {"y": y} | with_prefix("expected.", expected), metadata_of(name, width))


def main(arguments):
    torch.set_num_threads(1)
    if arguments[:1] == ["interop"] and len(arguments) in (2, 3):
        return interop(arguments[1], arguments[2:] == ["--full"])
    if arguments[:1] == ["step"] and len(arguments) == 4:
        model, width = arguments[2], int(arguments[3])
        full = width == 0 and not model.startswith("cnn")  # takes minutes
        print(json.dumps(step(arguments[1], model, width, rows=16 if full else 48)))
        return 0
    if arguments[:1] == ["record"] and len(arguments) == 4:
        record(arguments[1], int(arguments[2]), 6, arguments[3])
        return 0
    sys.exit(__doc__)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
