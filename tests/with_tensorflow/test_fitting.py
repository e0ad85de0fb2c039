"""Batches of all epochs, and what augmentation does to images."""

import resource
from dataclasses import replace

import numpy as np
import pytest
from fixtures.digits import few_digits

from matar_tf.data import Data
from matar_tf.errors import DataError, ModelError
from matar_tf.keras import Schedule, keras
from matar_tf.keras._compat import tf
from matar_tf.keras.train import fit_loop as fitting

ONE_EPOCH = Schedule(epochs=1, learning_rate=1e-2, batch_size=32)


def batches(data, schedule, seed=0, first_epoch=0):
    x, y = data.training()
    made = fitting._batches(x, y, schedule, seed, first_epoch)
    return list(made.as_numpy_iterator())


class TestBatches:
    # Each sample carries its own number, so that it can be told.
    COUNTED = Data(
        name="counted",
        x_test=np.zeros((1, 1, 1, 1), np.float32),
        y_test=np.zeros(1, np.int64),
        x_train=np.arange(10, dtype=np.float32).reshape(10, 1, 1, 1),
        y_train=np.arange(10) * 3,
    )
    SCHEDULE = Schedule(epochs=3, learning_rate=1.0, batch_size=4)

    def order(self, **arguments):
        made = batches(self.COUNTED, self.SCHEDULE, **arguments)
        return [x[:, 0, 0, 0].tolist() for x, _ in made]

    def test_every_epoch_has_every_sample_once_with_its_label(self):
        made = batches(self.COUNTED, self.SCHEDULE)
        assert [len(x) for x, _ in made] == [4, 4, 2] * 3
        for epoch in range(3):
            seen = np.concatenate([x for x, _ in made[3 * epoch : 3 * epoch + 3]])
            assert sorted(seen.ravel()) == list(range(10))
        for x, y in made:
            np.testing.assert_array_equal(x.ravel() * 3, y)

    def test_epochs_and_seeds_differ_and_repeat(self):
        order = self.order()
        assert order == self.order()
        assert order[:3] != order[3:6] != order[6:]
        assert order != self.order(seed=1)

    def test_a_late_start_gives_the_rest(self):
        assert self.order(first_epoch=2) == self.order()[6:]

    def test_large_seeds_are_taken(self):
        assert self.order(seed=2**32 - 1) != self.order(seed=2**32 - 2)


def shifted(image, down, right):
    """Moves an image by whole pixels, zeros coming in: an oracle by loops."""
    moved = np.zeros_like(image)
    height, width = image.shape[:2]
    for row in range(height):
        for column in range(width):
            if 0 <= row - down < height and 0 <= column - right < width:
                moved[row, column] = image[row - down, column - right]
    return moved


class TestAugment:
    IMAGE = np.arange(1, 5 * 7 * 2 + 1, dtype=np.float32).reshape(5, 7, 2)

    def augmented(self, count=300, key=(0, 0)):
        images = tf.constant(np.tile(self.IMAGE, (count, 1, 1, 1)))
        made = fitting.augment(images, tf.constant(key, tf.int64))
        return made.numpy()

    def possible(self):
        return {
            shifted(image, down, right).tobytes(): (mirrored, down, right)
            for mirrored, image in ((False, self.IMAGE), (True, self.IMAGE[:, ::-1]))
            for down in range(-4, 5)
            for right in range(-4, 5)
        }

    def test_every_image_is_mirrored_or_not_and_shifted_by_up_to_four_pixels(self):
        possible = self.possible()
        places = [possible[image.tobytes()] for image in self.augmented(2000)]
        mirrored, down, right = map(np.array, zip(*places, strict=True))
        assert abs(mirrored.mean() - 0.5) < 0.06
        assert set(down) == set(right) == set(range(-4, 5))
        # Each of the three is drawn on its own.
        assert np.abs(np.corrcoef([mirrored, down, right]) - np.eye(3)).max() < 0.1

    def test_the_key_decides(self):
        np.testing.assert_array_equal(self.augmented(), self.augmented())
        assert not np.array_equal(self.augmented(), self.augmented(key=(0, 1)))

    def test_batches_of_one_epoch_and_of_two_epochs_differ(self):
        x = np.tile(self.IMAGE, (60, 1, 1, 1))
        data = Data(
            name="copies", x_test=x, y_test=[0] * 60, x_train=x, y_train=[0] * 60
        )
        schedule = Schedule(epochs=2, learning_rate=1.0, batch_size=30, augment=True)
        made = [x for x, _ in batches(data, schedule)]
        again = [x for x, _ in batches(data, schedule)]
        np.testing.assert_array_equal(made, again)
        assert len({x.tobytes() for x in made}) == 4
        possible = self.possible()
        assert all(image.tobytes() in possible for x in made for image in x)

    def test_without_augment_images_stay(self):
        x = np.tile(self.IMAGE, (4, 1, 1, 1))
        data = Data(name="copies", x_test=x, y_test=[0] * 4, x_train=x, y_train=[0] * 4)
        (made, _), *_ = batches(data, ONE_EPOCH)
        np.testing.assert_array_equal(made, x)

    def test_samples_that_are_no_images_are_refused(self):
        x = few_digits().x_test.reshape(-1, 64)
        data = Data(name="flat", x_test=x, y_test=few_digits().y_test, x_train=x,
                    y_train=few_digits().y_test)  # fmt: skip
        with pytest.raises(DataError, match="images"):
            fitting.fit(None, data, replace(ONE_EPOCH, augment=True), 0, None, [])


def test_a_full_disk_is_one_sentence_and_training_goes_on_later(tmp_path):
    def dense():
        keras.utils.set_random_seed(0)
        layers = [keras.layers.Flatten(), keras.layers.Dense(10)]
        return keras.Sequential([keras.layers.Input((8, 8, 1)), *layers])

    def train(model, folder):
        fitting.fit(model, few_digits(), replace(ONE_EPOCH, epochs=2), 0, folder, [])

    most = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, most[1]))
    try:
        with pytest.raises(ModelError, match=r"save the training in .*; make room"):
            train(dense(), tmp_path / "kept")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, most)
    resumed, whole = dense(), dense()
    train(resumed, tmp_path / "kept")
    train(whole, None)
    for one, other in zip(resumed.get_weights(), whole.get_weights(), strict=True):
        np.testing.assert_array_equal(one, other)
