"""The shapes of a run stay what they are, however many segments a micro-batch happens to hold."""

import numpy as np
import pytest
import torch
from torch._dynamo.utils import counters

from electra_ds.data.loader import RowSource, open_shards
from electra_ds.kernels.attention import attention_layout, count_segments
from electra_ds.kernels.compiling import compile_static
from electra_ds.model.config import ObjectiveConfig
from electra_ds.recipe import parse_recipe
from electra_ds.training.batches import PreparedRows, micro_batches
from electra_ds.training.graphs import Recording, flat_arguments, once, replaying
from electra_ds.training.room import SegmentRoom
from tests.conftest import pretrain_options
from tests.model.conftest import make_batch, make_model

CPU = torch.device("cpu")


def rows_of(*counts, length=64):
    """Rows of so many segments each, as long as each other, without padding."""
    segments = torch.stack([torch.arange(length) * count // length + 1 for count in counts])
    tensors = dict.fromkeys(("input_ids", "segments", "positions", "token_types", "generator_ids"), segments)
    tensors |= {"keys": torch.zeros(len(counts)), "selected": segments[:, :2], "selected_valid": segments[:, :2] > 0}
    ids, sums = np.arange(len(counts)), torch.ones(5, dtype=torch.float64)
    return PreparedRows(tensors, sums, ids, ids, segments=count_segments(segments).numpy())


def layouts(room, *steps):
    """The layouts of steps of one micro-batch each, for the kernels of packed rows."""
    for counts in steps:
        prepared = rows_of(*counts)
        [batch] = micro_batches(prepared, len(counts), prepared.counts, 1, CPU, room)
        yield attention_layout(batch.segments, torch.float32, "varlen", batch.slots)


def test_counts_around_a_border_do_not_flip_the_shape():
    told = []
    room = SegmentRoom(say=told.append)
    # By themselves 13 and 14 segments get 16 and 32 slots.
    shapes = [layout.borders.shape for layout in layouts(room, *[(6, 7), (7, 7)] * 4)]
    assert set(shapes) == {(17,)} and not told
    shapes = [layout.borders.shape[0] for layout in layouts(room, *[(8, 9), (6, 6), (6, 7), (2, 1)] * 3)]
    assert set(shapes) == {33}
    [line] = told
    assert "2 rows of 64 tokens holds 17 segments: room for them grows from 16 to 32 slots" in line


def test_a_room_begins_with_what_rows_hold_on_average():
    room = SegmentRoom(lambda length: length / 10)
    assert room.slots(8, 40, 3) == 64  # 32 expected, a quarter to spare, a power of two
    assert room.slots(8, 100, 200) == 256  # more than the 80 that were expected
    assert room.slots(8, 40, 64) == 64 and room.slots(8, 40, 65) == 128 and room.slots(8, 40, 1) == 128
    assert room.slots(8, 100, 1) == 256


def test_compiled_code_is_compiled_once_for_all_batches():
    torch._dynamo.reset()
    counters.clear()
    double = compile_static(lambda borders: 2 * borders)
    for layout in layouts(SegmentRoom(), *[(6, 7), (7, 7)] * 4):
        double(layout.borders)
    assert counters["stats"]["unique_graphs"] == 1
    torch._dynamo.reset()


def test_a_room_that_is_too_small_is_refused_where_segments_are_counted():
    class Narrow(SegmentRoom):
        def slots(self, rows, length, count):
            return count - 1

    with pytest.raises(ValueError, match="slots: 12; the batch holds 13 segments"):
        list(layouts(Narrow(), (6, 7)))


def test_what_rows_hold_on_average_is_what_they_hold(tiny_shards):
    recipe = parse_recipe([*pretrain_options(tiny_shards, "nowhere")], "test")
    for length in (32, 128):
        source = RowSource(open_shards(recipe.data), recipe.data, length, 0)
        segments = source.unshuffled(np.arange(len(source))).segments.astype(np.int64)
        counted = count_segments(torch.from_numpy(segments)).double().mean()
        assert source.segments_a_row == pytest.approx(float(counted), rel=0.25)


def test_a_recording_that_does_not_fit_is_told_once_and_the_plain_way_is_taken():
    """On a CPU nothing is recorded: the recording here runs the encoder and counts its calls."""
    objective = ObjectiveConfig(mask_fraction=0.25)
    model = make_model(objective).train()
    encoder, told, calls = model.generator, [], []

    def inputs(rows):
        batch = make_batch(objective, rows=rows)
        embedded = model.embeddings(batch.generator_ids, batch.positions, batch.token_types)
        return embedded, model.layouts(batch)[0]

    recording = Recording(encoder)
    recording.longest, recording.has_bias = 48, True
    recording.register_forward_hook(lambda *_: calls.append(1))
    plain = encoder.forward
    encoder.forward = replaying(encoder, recording, flat_arguments(*inputs(3), None), once(told.append))
    for rows, replayed in ((3, 1), (2, 1), (3, 2), (2, 2)):
        assert torch.equal(encoder(*inputs(rows)), plain(*inputs(rows)))
        assert len(calls) == replayed
    [line] = told
    assert "other shapes" in line and "[2, 48, 64]" in line and "[3, 48, 64]" in line
    encoder.eval()
    encoder(*inputs(3))
    assert len(calls) == 2
