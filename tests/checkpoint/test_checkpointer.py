"""Weights are saved and loaded without loss, and wrong files are refused in one sentence."""

import copy
import re
import urllib.error
from collections.abc import Callable
from pathlib import Path
from unittest.mock import Mock, patch

import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.modeling import build_model
from detectron2.utils.file_io import PathManager
from model_zoo import different, scramble, stock_config, without_prefix, write_pickle
from safetensors.torch import save_file
from torch import Tensor, nn

from fpn_d2 import UserError
from fpn_d2.checkpoint import SafeCheckpointer, load_model
from fpn_d2.checkpoint.checkpointer import WeightsOrigin

ROW = "quick/RPN/rpn_R_18_FPN"
NORMS = pytest.mark.parametrize("norm", ["BN", "FrozenBN"])


@pytest.fixture
def config(row_config, narrow_words, tmp_path):
    """``config(KEY, value, ..., row=...)``: a narrow quick row that writes below the test's
    folder."""
    words = [*narrow_words, "OUTPUT_DIR", tmp_path / "output"]
    return lambda *opts, row=ROW: row_config(row, *words, *opts)


@pytest.fixture
def build(config) -> Callable:
    """``build(KEY, value, ...)``: the quick row's model, with random values."""

    def make(*opts: object) -> nn.Module:
        model = build_model(config(*opts).clone())
        scramble(model, seed=1)
        return model

    return make


@pytest.fixture
def model(build) -> nn.Module:
    return build()


@pytest.fixture
def save(file_of) -> Callable:
    """``save(state)``: write a checkpoint with that state; its path. Only ``model.state_dict()``
    itself has Module's metadata; any other dict has none."""

    def write(state: dict[str, Tensor], name: str = "weights.pth") -> str:
        path = file_of(name)
        torch.save({"model": state, "iteration": 7}, path)
        return str(path)

    return write


def copied(state: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in state.items()}


def refusal(call: Callable, *args, **kwargs) -> str:
    """Return the sentence in which the call refuses a user's mistake."""
    with pytest.raises(UserError) as error:
        call(*args, **kwargs)
    sentence = str(error.value)
    assert "\n" not in sentence
    assert len(re.sub(r"/\S+/", "", sentence)) < 500  # wherever the files are
    return sentence


# -- what is saved comes back ------------------------------------------------------------------


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_every_tensor_comes_back_bit_for_bit(model, build, tmp_path, layout):
    odd = torch.tensor([float("nan"), float("inf"), -float("inf"), -0.0, 1e-40, 3.4e38])
    with torch.no_grad():
        model.backbone.fpn_lateral2.bias[: len(odd)] = odd
    model.to(memory_format=layout)
    saved = copied(model.state_dict())
    SafeCheckpointer(model, str(tmp_path)).save("model", iteration=3)
    other = build()
    scramble(other, seed=2)
    assert len(different(other.state_dict(), saved)) == len(saved)
    for strict in (False, True):
        scramble(other, seed=2)
        rest = SafeCheckpointer(other, strict=strict).load(str(tmp_path / "model.pth"))
        assert rest["iteration"] == 3
        assert not different(other.state_dict(), saved)


def test_load_model_takes_the_weights_or_with_resume_the_last_checkpoint(model, config, save):
    first = scramble(model, seed=3)
    path = save(first, "first.pth")
    cfg = config("MODEL.WEIGHTS", path)
    assert not different(load_model(cfg, resume=True).state_dict(), first)  # none there yet
    folder = Path(cfg.OUTPUT_DIR)
    folder.mkdir()
    checkpointer = SafeCheckpointer(model, str(folder))
    for name, seed in [("model_0000001", 4), ("model_0000002", 5)]:
        last = scramble(model, seed=seed)
        checkpointer.save(name)
    assert not different(load_model(cfg).state_dict(), first)
    assert not different(load_model(cfg, resume=True).state_dict(), last)
    # as after a training from random weights
    assert not different(load_model(config(), resume=True).state_dict(), last)
    assert path == cfg.MODEL.WEIGHTS


def test_a_start_takes_the_weights_of_a_training_alone(model, file_of):
    state, theirs = nn.Linear(1, 1), nn.Linear(1, 1)  # as the trainer's
    path = file_of("weights.pth")
    torch.save({"model": model.state_dict(), "state": theirs.state_dict()}, path)
    checkpointer = SafeCheckpointer(model, state=state)
    checkpointer.resume_or_load(str(path), resume=False)
    assert different(state.state_dict(), theirs.state_dict())
    checkpointer.load(str(path))
    assert not different(state.state_dict(), theirs.state_dict())


def test_a_checkpointer_can_be_copied_like_detectron2s(tmp_path):
    copied = copy.deepcopy(SafeCheckpointer(nn.Linear(1, 1), str(tmp_path)))
    copied.save("model")
    assert {path.name for path in tmp_path.iterdir()} == {"last_checkpoint", "model.pth"}


def test_what_is_saved_at_an_address_goes_to_the_path_manager(tmp_path):
    checkpointer = SafeCheckpointer(nn.Linear(1, 1), "s3://bucket/output")
    with patch.object(PathManager, "open", lambda path, mode: open(tmp_path / path[-5:], mode)):
        checkpointer.save("model")
    assert torch.load(tmp_path / "l.pth")["model"].keys() == {"weight", "bias"}


# -- weights that are not there ----------------------------------------------------------------


@pytest.mark.parametrize("name", ["gone.pth", "gone.pkl", "gone.pth?matching_heuristics=True", ""])
def test_weights_that_do_not_exist_are_refused(model, config, tmp_path, name):
    before = copied(model.state_dict())
    path = f"{tmp_path}/{name}"  # "" is the folder itself
    for call in (
        lambda: SafeCheckpointer(model).load(path),
        lambda: SafeCheckpointer(model, str(tmp_path)).resume_or_load(path, resume=True),
        lambda: load_model(config("MODEL.WEIGHTS", path)),
    ):
        sentence = refusal(call)
        assert f"{path} {'do not exist' if name else 'are a folder'}" in sentence
        assert "set MODEL.WEIGHTS" in sentence
    assert not different(model.state_dict(), before)


def test_a_relative_path_may_look_like_a_url(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    model = nn.Linear(1, 1)
    state = scramble(model, seed=3)
    for folder in ("Run:1", "file:1"):
        Path(folder).mkdir()
        torch.save({"model": state}, f"{folder}/a.pth")
        scramble(model, seed=4)
        SafeCheckpointer(model, strict=True).load(f"{folder}/a.pth")
        assert not different(model.state_dict(), state)


def test_training_may_start_from_random_weights_but_evaluation_may_not(model, config):
    before = copied(model.state_dict())
    assert SafeCheckpointer(model).resume_or_load("", resume=False) == {}
    assert not different(model.state_dict(), before)
    for resume in (False, True):
        sentence = refusal(load_model, config(), resume=resume)
        assert "MODEL.WEIGHTS is empty" in sentence
        assert "set it to a checkpoint" in sentence


@pytest.mark.parametrize("last", ["model_0000099.pth", ""], ids=["gone", "empty"])
def test_a_last_checkpoint_that_is_gone_is_named_with_a_remedy_that_helps(
    model, config, save, last
):
    """The remedy is not another MODEL.WEIGHTS: with --resume nothing reads it."""
    cfg = config("MODEL.WEIGHTS", save(model.state_dict()))
    tag = Path(cfg.OUTPUT_DIR) / "last_checkpoint"
    tag.parent.mkdir()
    tag.write_text(last)  # empty: the disk was full, or a kill
    checkpointer = SafeCheckpointer(model, cfg.OUTPUT_DIR)
    for call in (
        lambda: checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=True),
        lambda: load_model(cfg, resume=True),
    ):
        sentence = refusal(call)
        assert last in sentence
        assert str(tag) in sentence
        assert "set MODEL.WEIGHTS" not in sentence
    # without --resume the file is no obstacle
    load_model(cfg)
    checkpointer.resume_or_load(cfg.MODEL.WEIGHTS, resume=False)


ENTRY = "COCO-Detection/retinanet_R_50_FPN_1x"  # no other test downloads it


@pytest.fixture
def offline(monkeypatch, tmp_path):
    """No address can be reached, and nothing was downloaded before."""
    unknown = urllib.error.URLError(OSError(-2, "Name or service not known"))
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("iopath.common.file_io.download", Mock(side_effect=unknown))


@pytest.mark.parametrize("name", [ENTRY, f"{ENTRY}.yaml", f"detectron2://{ENTRY}/1/m.pkl"])
def test_weights_that_cannot_be_downloaded_are_a_sentence(model, config, offline, name):
    before = copied(model.state_dict())
    for call in (
        lambda: SafeCheckpointer(model).load(name),
        lambda: load_model(config("MODEL.WEIGHTS", name)),
    ):
        sentence = refusal(call)
        assert sentence.startswith(f"the weights detectron2://{ENTRY}/")
        assert "cannot be downloaded ([Errno -2] Name or service not known)" in sentence
        assert f"download https://dl.fbaipublicfiles.com/detectron2/{ENTRY}/" in sentence
        assert "something else" not in sentence
    assert not different(model.state_dict(), before)


@pytest.mark.parametrize(
    "path", ["https://example.org/a.pth?matching_heuristics=True", "catalog://none"]
)
def test_other_addresses_that_lead_nowhere_are_sentences_too(model, offline, path):
    sentence = refusal(SafeCheckpointer(model).load, path)
    assert sentence.startswith(f"the weights {path.partition('?')[0]} cannot be downloaded (")


def test_a_server_that_gives_no_reason(model, offline, monkeypatch):
    url = "https://example.org/b.pth"
    refused = urllib.error.HTTPError(url, 403, "", {}, None)
    monkeypatch.setattr("iopath.common.file_io.download", Mock(side_effect=refused))
    sentence = refusal(SafeCheckpointer(model).load, url)
    assert "cannot be downloaded (HTTP Error 403:)" in sentence


def test_a_name_of_the_zoo_loads_what_is_downloaded_or_gets_a_hint(model, monkeypatch, tmp_path):
    state = scramble(model, seed=3)
    arrays = {name: value.numpy() for name, value in state.items()}
    content = {"model": arrays, "__author__": "Detectron2 Model Zoo"}
    folder = tmp_path / "detectron2" / "COCO-Detection" / "rpn_R_50_FPN_1x" / "137258492"
    folder.mkdir(parents=True)
    write_pickle(folder / "model_final_02ce48.pkl", content)
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    scramble(model, seed=4)
    SafeCheckpointer(model, strict=True).load("COCO-Detection/rpn_R_50_FPN_1x")
    assert not different(model.state_dict(), state)
    sentence = refusal(SafeCheckpointer(model).load, "COCO-Detection/rpn_R50_FPN_1x")
    assert "do not exist; did you mean COCO-Detection/rpn_R_50_FPN_1x or " in sentence
    assert "set MODEL.WEIGHTS" in sentence


# -- names of classes ---------------------------------------------------------------------------

FISH = ["cod", "eel", "x\u00e9"]


def test_class_names_travel_with_a_checkpoint(build, config, tmp_path, reports):
    model = build()
    path = str(tmp_path / "model.pth")
    SafeCheckpointer(model, str(tmp_path), class_names=FISH).save("model", iteration=3)
    assert torch.load(path, weights_only=True)["class_names"] == FISH
    origin = load_model(config("MODEL.WEIGHTS", path)).weights_origin
    assert origin == WeightsOrigin(path, tuple(FISH), "")
    # A checkpoint that is trained further has the names of its new data.
    other = SafeCheckpointer(model, str(tmp_path))
    other.load(path)
    other.save("other")
    assert "class_names" not in torch.load(tmp_path / "other.pth")
    # and stock Detectron2 takes no notice
    scramble(model, seed=5)
    rest = DetectionCheckpointer(model).load(path)
    assert not any(reports[-1])
    assert rest["class_names"] == FISH


@pytest.mark.parametrize("names", [None, "cod", 5, ["cod", 5], ("cod", "eel"), [["cod"]], {}])
def test_names_that_are_no_list_of_words_are_left_alone(model, config, tmp_path, names):
    path = tmp_path / "model.pth"
    torch.save({"model": model.state_dict(), "class_names": names}, path)
    assert load_model(config("MODEL.WEIGHTS", path)).weights_origin.class_names == ()


@pytest.mark.parametrize(
    "beside, dataset",
    [
        (["DATASETS.TEST", "('pond_val',)", "DATASETS.TRAIN", "('pond_train',)"], "pond_val"),
        (["DATASETS.TEST", "()", "DATASETS.TRAIN", "('pond_train',)"], "pond_train"),
        (["DATASETS.TEST", "()", "DATASETS.TRAIN", "()"], ""),
        ("MODEL: {}\nNO_KEY: 1\n", ""),
        ("[", ""),
        (None, ""),
    ],
)
def test_the_config_beside_a_checkpoint_says_what_it_was_trained_on(
    model, config, tmp_path, beside, dataset
):
    path = tmp_path / "model.pth"
    torch.save({"model": model.state_dict()}, path)
    if beside is not None:
        text = beside if isinstance(beside, str) else config(*beside).dump()
        (tmp_path / "config.yaml").write_text(text)
    assert load_model(config("MODEL.WEIGHTS", path)).weights_origin.dataset == dataset


# -- a checkpoint of another network -----------------------------------------------------------


def module_of(key: str) -> str:
    """ "...conv1" for both "...conv1.weight" and "...conv1.norm.running_mean"."""
    return key.rpartition(".")[0].removesuffix(".norm")


def fill(state: dict[str, Tensor], *, at_least_half: bool) -> tuple[dict[str, Tensor], int, int]:
    """Drop whole modules of the backbone until just under half of its keys are left, or the fewest
    that are at least half; return the state, the number of keys left and the number of all."""
    backbone = [key for key in state if key.startswith("backbone.")]
    kept: list[str] = []
    for module in dict.fromkeys(map(module_of, backbone)):
        more = kept + [key for key in backbone if module_of(key) == module]
        if at_least_half and 2 * len(kept) >= len(backbone):
            break
        if not at_least_half and 2 * len(more) >= len(backbone):
            break
        kept = more
    filled = type(state)((k, v) for k, v in state.items() if k in kept or k not in backbone)
    if hasattr(state, "_metadata"):
        filled._metadata = state._metadata
    return filled, len(kept), len(backbone)


def with_metadata(state, save, path) -> str:
    """A file as this package and Detectron2 save it."""
    return save(state)


def plain_dict(state, save, path, prefix: str = "", **more: object) -> str:
    """A zoo's file. Without metadata, norms fill their statistics themselves and do not say so."""
    arrays = {k.removeprefix(prefix): v.numpy() for k, v in state.items()}
    return write_pickle(path, {"model": arrays, "__author__": "someone", **more})


def matched(state, save, path) -> str:
    """A file with a backbone's own names, which are to be matched."""
    return plain_dict(state, save, path, "backbone.bottom_up.", matching_heuristics=True)


@NORMS
@pytest.mark.parametrize("form", [with_metadata, plain_dict, matched])
def test_half_of_the_backbones_keys_suffices_for_training_and_less_does_not(
    build, save, file_of, reports, form, norm
):
    model = build("MODEL.RESNETS.NORM", norm)
    state, filled, total = fill(model.state_dict(), at_least_half=False)
    assert 0.4 * total < filled < 0.5 * total
    path = form(state, save, file_of("weights.pkl"))
    sentence = refusal(SafeCheckpointer(model).load, path)
    assert f"{path} fills only {filled} of the backbone's {total} keys" in sentence
    assert "set MODEL.WEIGHTS" in sentence

    scramble(model, seed=1)
    state, filled, total = fill(model.state_dict(), at_least_half=True)
    assert 0.5 * total <= filled < 0.6 * total
    expected = copied(state)
    path = form(state, save, file_of("weights.pkl"))
    scramble(model, seed=2)
    SafeCheckpointer(model).load(path)
    loaded = model.state_dict()
    assert not different({name: loaded[name] for name in expected}, expected)
    assert reports[-1].missing_keys  # which are logged, as Detectron2 does
    sentence = refusal(SafeCheckpointer(model, strict=True).load, path)
    assert "would be evaluated as random weights" in sentence


def test_exactly_half_is_not_under_half(model, save):
    state = model.state_dict()
    statistics = (".running_mean", ".running_var", ".num_batches_tracked")
    backbone = [key for key in state if key.startswith("backbone.")]
    # a norm loses its statistics before its weight, without which they mean nothing
    backbone.sort(key=lambda key: not key.endswith(statistics))
    assert len(backbone) % 2 == 0
    for key in backbone[: len(backbone) // 2]:
        del state[key]
    SafeCheckpointer(model).load(save(state))
    del state[backbone[-1]]
    assert "fills only" in refusal(SafeCheckpointer(model).load, save(state))


def test_a_classifier_of_another_depth_is_refused(row_config, file_of):
    """Many tensors of R-18's file share name and shape with R-50's: in the first two blocks of a
    stage every 3x3 convolution and all norms around it. Yet they are only 77 of 281 keys."""
    model = build_model(row_config("RPN/rpn_R_50_FPN").clone())
    source = build_model(
        stock_config("RPN", "C5", 18, "MODEL.RESNETS.RES2_OUT_CHANNELS", 64)
    ).backbone.state_dict()
    content = {"model": {name: value.numpy() for name, value in source.items()}}
    content |= {"__author__": "torchvision", "matching_heuristics": True}
    path = write_pickle(file_of("R-18.pkl"), content)
    shapes = {k: v.shape for k, v in model.state_dict().items() if k.startswith("backbone.")}
    theirs = {name: value.shape for name, value in source.items()}
    fits = [key for key, shape in shapes.items() if theirs.get(without_prefix(key)) == shape]
    assert (len(fits), len(shapes)) == (77, 281)
    assert "fills only 77 of the backbone's 281 keys" in refusal(SafeCheckpointer(model).load, path)


@pytest.mark.parametrize("strict", [False, True])
def test_a_checkpoint_of_another_architecture_is_refused(model, build, save, strict):
    regnet = ["MODEL.FPN.BOTTOM_UP", "build_regnet_backbone"]
    other = build(*regnet, "MODEL.FPN.IN_FEATURES", ["s1", "s2", "s3", "s4"])
    path = save(other.state_dict())
    checkpointer = SafeCheckpointer(model, strict=strict)
    sentence = refusal(checkpointer.load, path)
    assert path in sentence
    assert "set MODEL.WEIGHTS" in sentence
    assert "backbone." in sentence  # the first of the keys that it leaves empty
    checkpointer.load(save(model.state_dict(), "right.pth"))  # and it takes the next


# -- evaluation needs every key ----------------------------------------------------------------


@pytest.mark.parametrize(
    "ending",
    [
        "stem.conv1.weight",
        "res3.0.shortcut.norm.bias",
        "res2.1.conv2.norm.running_mean",
        "res5.0.conv1.norm.running_var",
        "fpn_lateral4.bias",
        "fpn_output2.weight",
        "rpn_head.anchor_deltas.bias",
    ],
)
@pytest.mark.parametrize("fault", ["missing", "wrong shape"])
def test_evaluation_refuses_a_single_unfilled_key_and_training_does_not(
    model, config, save, reports, ending, fault
):
    state = model.state_dict()
    key = next(key for key in state if key.endswith(ending))
    value = state.pop(key)
    if fault == "wrong shape":
        state[key] = torch.cat([value, value])
    path = save(state)
    sentence = refusal(load_model, config("MODEL.WEIGHTS", path))
    assert f"{path} does not fill 1 of the model's keys ({key})" in sentence
    assert "set MODEL.WEIGHTS to a checkpoint of this config" in sentence
    SafeCheckpointer(model).load(path)
    (report,) = reports
    assert report.missing_keys == [key]
    shapes = [(key, (2 * value.shape[0], *value.shape[1:]), tuple(value.shape))]
    assert report.incorrect_shapes == (shapes if fault == "wrong shape" else [])


@NORMS
def test_evaluation_refuses_any_missing_module(config, file_of, norm):
    """The file has no metadata."""
    cfg = config("MODEL.RESNETS.NORM", norm)
    model = build_model(cfg.clone())
    state = scramble(model, seed=1)
    path = file_of("weights.pkl")
    modules = list(dict.fromkeys(map(module_of, state)))
    for module in modules[::4]:
        arrays = {k: v.numpy() for k, v in state.items() if module_of(k) != module}
        gone = len(state) - len(arrays)
        write_pickle(path, {"model": arrays, "__author__": "someone"})
        sentence = refusal(SafeCheckpointer(model, strict=True).load, str(path))
        assert f"does not fill {gone} of the model's keys ({module}." in sentence


def test_a_class_head_of_another_size_may_be_fine_tuned_but_not_evaluated(config, save, reports):
    row = "quick/Faster-RCNN/faster_rcnn_R_18_FPN"
    small = ("MODEL.ROI_BOX_HEAD.FC_DIM", 8)
    source = build_model(config(*small, row=row).clone())
    state = scramble(source, seed=1)
    path = save(source.state_dict())
    cfg = config(*small, "MODEL.ROI_HEADS.NUM_CLASSES", 3, "MODEL.WEIGHTS", path, row=row)
    predictor = "roi_heads.box_predictor"
    of_shape = {
        f"{predictor}.cls_score.weight": ((6, 8), (4, 8)),  # the classes and the background
        f"{predictor}.cls_score.bias": ((6,), (4,)),
        f"{predictor}.bbox_pred.weight": ((20, 8), (12, 8)),  # four numbers for each class
        f"{predictor}.bbox_pred.bias": ((20,), (12,)),
    }
    model = build_model(cfg.clone())
    before = scramble(model, seed=2)
    SafeCheckpointer(model).resume_or_load(path, resume=False)
    (report,) = reports
    assert {name: shapes for name, *shapes in report.incorrect_shapes} == {
        name: list(shapes) for name, shapes in of_shape.items()
    }
    assert not report.unexpected_keys
    expected = {name: before[name] if name in of_shape else value for name, value in state.items()}
    assert not different(model.state_dict(), expected)
    sentence = refusal(load_model, cfg)
    assert f"does not fill 4 of the model's keys ({predictor}.bbox_pred.bias, " in sentence


# -- Detectron2's own ways in ------------------------------------------------------------------


@pytest.mark.parametrize("name, save", [("a.pth", torch.save), ("a.safetensors", save_file)])
def test_names_are_matched_in_a_file_that_asks_for_it(model, file_of, name, save):
    """``weights.pth?matching_heuristics=True`` loads other people's backbones."""
    state = scramble(model, seed=3)
    bottom_up = "backbone.bottom_up."
    own = {k.removeprefix(bottom_up): v for k, v in state.items() if k.startswith(bottom_up)}
    path = file_of(name)
    save(own, path)
    assert "or add ?matching_heuristics=True" in refusal(SafeCheckpointer(model).load, str(path))
    before = scramble(model, seed=4)
    SafeCheckpointer(model).load(f"{path}?matching_heuristics=True")
    expected = {k: v if k.startswith(bottom_up) else before[k] for k, v in state.items()}
    assert not different(model.state_dict(), expected)


def test_a_models_state_dict_alone_and_one_with_more_keys_are_checkpoints(model, config, file_of):
    """As when an RPN is evaluated from a Faster R-CNN's weights."""
    state = scramble(model, seed=3)
    path = file_of("state.pth")
    torch.save({**state, "roi_heads.mask_head.predictor.weight": torch.rand(5, 8, 1, 1)}, path)
    assert not different(load_model(config("MODEL.WEIGHTS", path)).state_dict(), state)


def test_a_frozen_layer_that_stays_random_is_told(model, build, save, caplog):
    grey = ["INPUT.FORMAT", "L", "MODEL.PIXEL_MEAN", [110.0], "MODEL.PIXEL_STD", [1.0]]
    path = save(model.state_dict())
    SafeCheckpointer(build(*grey)).load(path)  # it learns
    assert "random to the end" not in caplog.text
    SafeCheckpointer(build(*grey, "MODEL.BACKBONE.FREEZE_AT", 2)).load(path)
    assert "stem.conv1.weight, frozen and so random to the end" in caplog.text


def test_the_config_by_which_weights_were_trained_is_named(model, config, save):
    path = save(model.state_dict())
    beside = Path(path).with_name("config.yaml")
    beside.write_text("")
    cfg = config("MODEL.RPN.SHARED_HEAD", False, "MODEL.WEIGHTS", path)
    assert refusal(load_model, cfg).endswith(f"by which it was trained, such as {beside}")
