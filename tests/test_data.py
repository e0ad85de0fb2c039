import io
import re
import zipfile

import numpy as np
import pytest

from matar_tf.data import Data, as_data, load_data
from matar_tf.errors import DataError, MatarWarning
from matar_tf.tflite.answers import samples_alone

SAMPLES = np.arange(12, dtype=np.float32).reshape(3, 2, 2, 1)
LABELS = np.array([0, 2, 1])


def arrays(**changes):
    """What a function of the user's own may return; None removes a key."""
    both = {
        "x_train": SAMPLES,
        "y_train": LABELS,
        "x_test": SAMPLES + 1,
        "y_test": LABELS,
        **changes,
    }
    return {key: value for key, value in both.items() if value is not None}


def failing():
    raise RuntimeError("the user's own")


def ragged_samples():
    return arrays(x_test=[[1.0, 2.0], [3.0]])


def ragged_labels():
    return arrays(y_test=[[1, 2], [3]])


def importing():
    import no_such_package  # noqa: F401  # pyright: ignore[reportMissingImports]


def returns_list():
    return [SAMPLES, LABELS]


NOT_A_FUNCTION = 3


def save(path, **changes) -> str:
    np.savez(path, **arrays(**changes))
    return str(path)


class TestDigits:
    def test_shapes_ranges_and_types(self):
        data = load_data("digits")
        x, y = data.training()
        assert x.shape == (1297, 8, 8, 1)
        assert data.x_test.shape == (500, 8, 8, 1)
        assert x.dtype == data.x_test.dtype == np.float32
        assert (data.x_test.min(), data.x_test.max()) == (0.0, 1.0)
        assert set(y.tolist()) == set(data.y_test.tolist()) == set(range(10))

    def test_every_digit_is_in_exactly_one_part(self):
        from sklearn.datasets import load_digits

        data = load_data("digits")
        x, _ = data.training()
        both = np.concatenate([x, data.x_test]).reshape(-1, 64) * 16
        assert sorted(map(tuple, both)) == sorted(map(tuple, load_digits().data))

    def test_is_the_same_every_time(self):
        assert load_data("digits").digest() == load_data("digits").digest()


class TestFile:
    def test_floats_are_taken_as_they_are(self, tmp_path):
        data = load_data(save(tmp_path / "a.npz"))
        np.testing.assert_array_equal(data.x_test, SAMPLES + 1)
        np.testing.assert_array_equal(data.training()[0], SAMPLES)
        np.testing.assert_array_equal(data.training()[1], LABELS)
        assert data.y_test.dtype == np.int64

    def test_unsigned_bytes_are_scaled_to_one(self, tmp_path):
        pixels = np.array([0, 51, 255, 102], np.uint8).reshape(2, 2)
        path = save(
            tmp_path / "a.npz", x_train=None, y_train=None, x_test=pixels, y_test=[0, 1]
        )
        expected = np.array([[0.0, 0.2], [1.0, 0.4]], np.float32)
        np.testing.assert_array_equal(load_data(path).x_test, expected)
        with pytest.warns(MatarWarning, match=r"divided by 255, to the range 0\.\.1"):
            data = Data(x_test=pixels, y_test=[0, 1])
        np.testing.assert_array_equal(data.x_test, expected)

    def test_double_precision_becomes_single(self, tmp_path):
        path = save(tmp_path / "a.npz", x_test=SAMPLES.astype(np.float64))
        assert load_data(path).x_test.dtype == np.float32

    def test_labels_may_be_a_column(self, tmp_path):
        path = save(tmp_path / "a.npz", y_test=LABELS[:, np.newaxis].astype(np.uint8))
        np.testing.assert_array_equal(load_data(path).y_test, LABELS)

    def test_other_arrays_are_left_alone(self, tmp_path):
        path = save(tmp_path / "a.npz", speaker=np.array(["a", "b", "c"]))
        assert len(load_data(path).x_test) == 3

    def test_no_training_data_is_an_error_only_when_asked_for(self, tmp_path):
        data = load_data(save(tmp_path / "a.npz", x_train=None, y_train=None))
        with pytest.raises(DataError, match="add x_train and y_train"):
            data.training()

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"y_test": None}, "x_test and y_test"),
            ({"y_train": None}, "both x_train and y_train"),
            ({"x_train": None}, "both x_train and y_train"),
            (
                {"y_test": LABELS[:2]},
                r"3 labels, integers or floats, in y_test .*; give",
            ),
            ({"y_test": LABELS * np.nan}, "finite labels in y_test"),
            ({"y_train": LABELS * 1e300}, "infinity as float32"),
            (
                {"y_test": LABELS.astype(str)},
                r"numbers in 'y_test.npy' of .*integers\.$",
            ),
            (
                {"y_test": LABELS.astype(np.uint64) + 2**63},
                "at most 9223372036854775807 in",
            ),
            ({"x_test": LABELS}, "shape \\[num_samples"),
            ({"x_test": SAMPLES[:0], "y_test": LABELS[:0]}, "shape \\[num_samples"),
            (
                {"x_test": SAMPLES > 0},
                r"floats or unsigned bytes .*give x\.astype",
            ),
            ({"x_test": SAMPLES[:, :1]}, "one shape"),
            ({"x_test": np.full_like(SAMPLES, np.nan)}, "finite"),
            ({"x_test": np.full(SAMPLES.shape, 1e300)}, "infinity as float32"),
        ],
    )
    def test_refuses_arrays_that_do_not_fit(self, tmp_path, changes, message):
        path = save(tmp_path / "a.npz", **changes)
        with pytest.raises(DataError, match=message):
            load_data(path)

    def test_training_samples_are_read_only_when_asked_for(self, tmp_path):
        path = save(tmp_path / "a.npz", y_train=LABELS * np.nan)
        data = load_data(path, training=False)
        np.testing.assert_array_equal(data.x_test, SAMPLES + 1)
        assert data.x_train is data.y_train is None
        with pytest.raises(DataError, match="in y_train"):
            load_data(path)

    def test_the_largest_and_the_smallest_label(self, tmp_path):
        labels = np.array([0, 2**63 - 1, 1], np.uint64)
        path = save(tmp_path / "a.npz", y_test=labels)
        assert load_data(path).y_test.tolist() == [0, 2**63 - 1, 1]
        path = save(tmp_path / "a.npz", y_test=labels + np.array([0, 1, 0], np.uint64))
        with pytest.raises(DataError, match=f"got {2**63}"):
            load_data(path)

    @pytest.mark.parametrize(
        ("labels", "message"),
        [
            (LABELS.astype(np.float32), r"3 integer labels .*; give y\.astype\(int\)"),
            (np.eye(3, dtype=int), r"shape \(3, 3\) .*, one-hot, give y\.argmax"),
            (np.zeros((3, 2, 2), int), "give the number of its class for each"),
            (LABELS - 1, r"0 on .* got -1\.\.1 .*; number the classes as at training"),
        ],
    )
    def test_what_classes_are_trained_on_are_numbers(self, labels, message):
        data = Data(x_test=SAMPLES, y_test=labels, x_train=SAMPLES, y_train=labels)
        with pytest.raises(DataError, match=message):
            data.training()

    def test_labels_of_other_tasks_are_kept_as_they_are(self):
        masks = np.arange(12).reshape(3, 2, 2) > 5
        for labels, kind in ((masks, "int64"), (masks / 3.0, "float32")):
            data = Data(x_test=SAMPLES, y_test=labels)
            assert data.y_test.dtype == kind
            np.testing.assert_allclose(data.y_test, labels.astype(float), rtol=1e-6)

    def test_refuses_a_missing_file(self, tmp_path):
        with pytest.raises(DataError, match="found nothing"):
            load_data(str(tmp_path / "a.npz"))

    def test_names_the_arrays_that_are_there(self, tmp_path):
        path = tmp_path / "a.npz"
        np.savez(path, images=SAMPLES, y_test=LABELS)
        message = r"x_test and y_test in .*, got 'images', 'y_test'; save"
        with pytest.raises(DataError, match=message):
            load_data(str(path))
        np.savez(path, **{f"x{number:02d}": LABELS for number in range(11)})
        with pytest.raises(DataError, match=r"got 'x00', .*'x09', \.\.\.;"):
            load_data(str(path))
        np.savez(path)
        with pytest.raises(DataError, match="got none"):
            load_data(str(path))

    def test_refuses_pickled_objects(self, tmp_path):
        path = save(tmp_path / "a.npz", x_test=np.array([{}, 1, "a"], dtype=object))
        with pytest.raises(DataError, match="plain arrays"):
            load_data(path)

    def test_refuses_a_bare_array(self, tmp_path):
        path = tmp_path / "a.npz"
        with path.open("wb") as file:
            np.save(file, SAMPLES)
        with pytest.raises(DataError, match="bare array"):
            load_data(str(path))

    @pytest.mark.parametrize("compressed", [False, True])
    def test_refuses_damage(self, tmp_path, compressed):
        path = tmp_path / "a.npz"
        (np.savez_compressed if compressed else np.savez)(path, **arrays())
        content = bytearray(path.read_bytes())
        content[80:160] = b"\xff" * 80
        path.write_bytes(content)
        with pytest.raises(DataError, match="plain arrays"):
            load_data(str(path))

    @pytest.mark.parametrize(
        ("offset", "value", "message"),
        [
            (6, 1, "encrypted"),
            (8, 99, "compression"),
            (4, 99, "version"),
        ],
    )
    def test_refuses_what_zip_cannot_read(self, tmp_path, offset, value, message):
        # Version, flags and method stand alike in the header of each member and, two
        # bytes later, in the directory at the end.
        path = tmp_path / "a.npz"
        np.savez(path, **arrays())
        content = bytearray(path.read_bytes())
        for start, shift in ((b"PK\x03\x04", 0), (b"PK\x01\x02", 2)):
            for match in re.finditer(re.escape(start), bytes(content)):
                content[match.start() + offset + shift] = value
        path.write_bytes(content)
        with pytest.raises(DataError, match=message):
            load_data(str(path))

    def test_refuses_damage_of_every_compression(self, tmp_path):
        path = tmp_path / "a.npz"
        refused = set()
        for method in (zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA):
            with zipfile.ZipFile(path, "w", method) as archive:
                for name, array in arrays().items():
                    stream = io.BytesIO()
                    np.save(stream, array)
                    archive.writestr(f"{name}.npy", stream.getvalue())
            content = path.read_bytes()
            for place in range(40, 120):
                damaged = bytearray(content)
                damaged[place] ^= 0xFF
                path.write_bytes(damaged)
                try:
                    load_data(str(path))
                except DataError:
                    refused.add(method)
        assert len(refused) == 3

    def test_refuses_a_size_that_no_file_has(self, tmp_path):
        stream = io.BytesIO()
        np.save(stream, SAMPLES)
        content = stream.getvalue().replace(b"(3, 2, 2, 1), }", b"(10000000000,)}")
        path = tmp_path / "a.npz"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("x_test.npy", content.replace(b"10000", b"99999"))
        with pytest.raises(DataError, match="plain arrays"):
            load_data(str(path))

    @pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04 cut off"])
    def test_refuses_what_is_no_npz(self, tmp_path, content):
        path = tmp_path / "a.npz"
        path.write_bytes(content)
        with pytest.raises(DataError, match="plain arrays"):
            load_data(str(path))


class TestFunction:
    def test_returns_a_mapping(self):
        data = load_data(f"{__name__}:arrays")
        np.testing.assert_array_equal(data.x_test, SAMPLES + 1)
        np.testing.assert_array_equal(data.training()[1], LABELS)
        assert data.name == f"{__name__}:arrays"

    @pytest.mark.parametrize(
        ("function", "message"),
        [
            ("returns_list", "got list"),
            ("ragged_samples", "an array in x_test of .* one shape"),
            ("ragged_labels", "an array in y_test of .* one shape"),
            ("missing", "has no attribute 'missing'"),
            ("importing", "No module named 'no_such_package'.*install it"),
            ("NOT_A_FUNCTION", "got int"),
            ("", "importable from here"),
        ],
    )
    def test_refuses_what_gives_no_data(self, function, message):
        with pytest.raises(DataError, match=message):
            load_data(f"{__name__}:{function}")

    @pytest.mark.parametrize("module", ["no_such_module", "", ".relative"])
    def test_refuses_what_cannot_be_imported(self, module):
        with pytest.raises(DataError, match="importable from here; PYTHONPATH"):
            load_data(f"{module}:function")

    def test_errors_of_the_function_pass_through(self):
        with pytest.raises(RuntimeError, match="the user's own"):
            load_data(f"{__name__}:failing")


def test_refuses_an_unknown_form():
    with pytest.raises(DataError, match="got 'cifar10'"):
        load_data("cifar10")


class TestData:
    def test_head_keeps_the_first_evaluation_samples_and_all_training_samples(self):
        data = load_data(f"{__name__}:arrays").head(2)
        np.testing.assert_array_equal(data.x_test, SAMPLES[:2] + 1)
        np.testing.assert_array_equal(data.y_test, [0, 2])
        assert len(data.training()[0]) == 3

    @pytest.mark.parametrize("num_samples", [1, 3])
    def test_head_may_be_one_sample_or_all(self, num_samples):
        data = load_data(f"{__name__}:arrays").head(num_samples)
        assert len(data.x_test) == len(data.y_test) == num_samples

    @pytest.mark.parametrize("num_samples", [0, 4])
    def test_head_refuses_more_than_there_are(self, num_samples):
        with pytest.raises(DataError, match="1 to 3 evaluation samples"):
            load_data(f"{__name__}:arrays").head(num_samples)

    @pytest.mark.parametrize(
        ("value", "message"),
        [
            ((SAMPLES, LABELS, LABELS), r"got tuple of 3; give a tuple of the two"),
            ([SAMPLES, LABELS], r"got list of 2; give a tuple of the two"),
            (SAMPLES, r"matar_tf\.Data, got ndarray of shape .*; add the labels"),
            (3, "got int; give it in one of these forms"),
            ({"x": SAMPLES, "y": LABELS}, r"got \['x', 'y'\]; give them under these"),
        ],
    )
    def test_other_forms_are_refused_with_a_remedy(self, value, message):
        with pytest.raises(DataError, match=message):
            as_data(value)

    def test_several_by_name_as_in_a_file(self):
        data = as_data({"x_test/a": SAMPLES, "x_test/b": SAMPLES, "y_test": LABELS})
        assert list(data.x_test) == ["a", "b"]
        alone = samples_alone({"x_test/a": SAMPLES, "x_test/b": SAMPLES})
        assert alone is not None
        assert list(alone[1]) == ["a", "b"]
        with pytest.raises(DataError, match=r"either x_test or arrays x_test/NAME"):
            as_data({"x_test/a": SAMPLES, "x_test": SAMPLES, "y_test": LABELS})

    def test_a_list_of_several_asks_for_their_names(self):
        several = [SAMPLES, SAMPLES[..., 0]]
        with pytest.raises(DataError, match=r"list of 2 .* mapping by their names"):
            Data(x_test=several, y_test=LABELS)

    def test_a_mask_is_not_lost(self):
        masked = np.ma.masked_array(SAMPLES, np.zeros(SAMPLES.shape, bool))
        data = Data(x_test=masked, y_test=LABELS)
        assert type(data.x_test) is np.ndarray
        masked.mask[0, 0, 0, 0] = True
        with pytest.raises(DataError, match="without a mask in x_test"):
            Data(x_test=masked, y_test=LABELS)
        with pytest.raises(DataError, match="without a mask in y_test"):
            Data(x_test=SAMPLES, y_test=np.ma.masked_equal(LABELS, 2))

    def test_digest_changes_with_samples_labels_and_shape(self):
        def digest(x, y):
            return Data(name="a", x_test=x, y_test=y).digest()

        digests = {
            digest(SAMPLES, LABELS),
            digest(SAMPLES + 1, LABELS),
            digest(SAMPLES, LABELS[::-1]),
            digest(SAMPLES.reshape(3, 4), LABELS),
        }
        assert len(digests) == 4
        # Types are what `Data` makes of them: equal values, equal data.
        assert digest(SAMPLES, LABELS.astype(np.int32)) in digests

    def test_digest_does_not_depend_on_the_layout_in_memory(self):
        one = Data(name="a", x_test=SAMPLES, y_test=LABELS)
        other = Data(name="b", x_test=np.asfortranarray(SAMPLES), y_test=LABELS)
        assert one.digest() == other.digest()
