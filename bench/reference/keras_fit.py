"""Rows a second of the last epoch of Keras' `fit` on MNIST; run by `bench.train` in an interpreter that has Keras.

python keras_fit.py MNIST_NPZ BATCH EPOCHS
"""

import sys
from time import perf_counter

import keras
import numpy as np


class Clock(keras.callbacks.Callback):
    """Seconds of the newest epoch."""

    def on_epoch_begin(self, epoch, logs=None):  # noqa: ARG002
        self.began = perf_counter()

    def on_epoch_end(self, epoch, logs=None):  # noqa: ARG002
        self.seconds = perf_counter() - self.began


def main(data, batch, epochs):
    with np.load(data, allow_pickle=False) as arrays:
        x, y = arrays["x_train"].reshape(-1, 784).astype("float32") / 255, arrays["y_train"]
    layers = keras.layers
    network = keras.Sequential(
        [
            keras.Input((784,)),
            layers.Dense(64),
            layers.BatchNormalization(),
            layers.Activation("relu"),
            layers.Dense(10, activation="softmax"),
        ]
    )
    network.compile(optimizer="adam", loss="sparse_categorical_crossentropy", metrics=["accuracy"])
    clock = Clock()
    network.fit(x, y, batch_size=int(batch), epochs=int(epochs), verbose=0, callbacks=[clock])
    print(len(x) / clock.seconds)


if __name__ == "__main__":
    main(*sys.argv[1:])
