"Data sets of the library `datasets` for the tests of the hub, and a stream that breaks."

import io

import datasets
from PIL import Image


def png(value):
    "The bytes of a small image of one grey value."
    file = io.BytesIO()
    Image.new("L", (32, 32), value % 256).save(file, "PNG")
    return file.getvalue()


def films(n, first=0):
    "Images, texts and numbers, under names of their owner's taste."
    columns = {
        "scan": [{"bytes": png(i), "path": f"/home/someone/{i}.png"} for i in range(first, first + n)],
        "impression": [f"film {i}" for i in range(first, first + n)],
        "number": list(range(first, first + n)),
    }
    features = datasets.Features(
        scan=datasets.Image(), impression=datasets.Value("string"), number=datasets.Value("int64")
    )
    return datasets.Dataset.from_dict(columns, features=features)


class Stream:
    "A data set whose rows cannot be read from some row on, a number of times."

    def __init__(self, rows, at, breaks):
        self.rows, self.features, self.at = rows, rows.features, at
        self.left = breaks  # a list of one number, shared by the streams that come from this one

    def _like(self, rows):
        return Stream(rows, self.at, self.left)

    def cast_column(self, column, feature):
        return self._like(self.rows.cast_column(column, feature))

    def select_columns(self, columns):
        return self._like(self.rows.select_columns(columns))

    def skip(self, n):
        return self._like(self.rows.skip(n))

    def __iter__(self):
        for row in self.rows:
            if row["number"] == self.at and self.left[0]:
                self.left[0] -= 1
                raise ConnectionError("the network is gone")
            yield row
