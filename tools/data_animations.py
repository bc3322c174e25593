"""The emoji's animations: eight frames of a loop, and how the whole picture moves in it."""

import io
from multiprocessing import Pool

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, map_coordinates

from tools.data_packages import Packages
from tools.data_pictures import SIDE, bitmaps, on_white, reduce

FRAMES = 8  # frames kept
SAMPLES = 16  # frames registered to find the motion
FIELD = 48  # side in pixels of a frame registered
RADIUS = 14  # pixels from the centre at which zoom and rotation are expressed as a distance
NOT_PUBLISHED = {"1f468-200d-1f4bb", "1f9d1-200d-1f4bb"}  # in the package, not in Microsoft's own repository

CENTRE = (FIELD - 1) / 2
Y, X = np.mgrid[:FIELD, :FIELD] - CENTRE


def frames(animation: bytes, count: int, side: int) -> np.ndarray:
    """Return frames evenly spaced over the loop, premultiplied, (count, side, side, 4) float32."""
    with Image.open(io.BytesIO(animation)) as file:
        wanted = [i * file.n_frames // count for i in range(count)]
        taken = []
        for i in range(wanted[-1] + 1):
            file.seek(i)
            taken.extend([reduce(file, side)] * wanted.count(i))
    return np.stack(taken)


def positions(p: np.ndarray) -> np.ndarray:
    """Return where a similarity transform takes each pixel, (2, FIELD, FIELD) as y, x.

    x' = e^s R(a) x + d about the centre, with p = (d_x, d_y, s, a): shift in pixels, log zoom, angle.
    """
    dx, dy, log_zoom, angle = p
    c, s = np.exp(log_zoom) * np.cos(angle), np.exp(log_zoom) * np.sin(angle)
    return np.stack([s * X + c * Y + dy, c * X - s * Y + dx]) + CENTRE


def sample(channels: np.ndarray, at: np.ndarray) -> np.ndarray:
    """Return each of some (FIELD, FIELD) channels, interpolated at the given positions."""
    return np.stack([map_coordinates(channel, at, order=1, mode="nearest") for channel in channels])


def register(reference: np.ndarray, frame: np.ndarray, start: np.ndarray) -> np.ndarray:
    """Return the similarity transform that takes the reference to the frame, by Gauss-Newton steps.

    From coarse to fine; differences above about 0.15 count less and less (Cauchy weights), because parts of
    the drawing move on their own; a weak pull towards no zoom and no rotation keeps plain discs determined.
    """
    p = start
    for blur in (3.0, 1.5, 0.7):
        fixed, moving = (gaussian_filter(image, (0, blur, blur)) for image in (reference, frame))
        slope_y, slope_x = np.gradient(moving, axis=(1, 2))
        for _ in range(8):
            at = positions(p)
            turned_y, turned_x = at - CENTRE - p[1::-1, None, None]
            gx, gy = sample(slope_x, at), sample(slope_y, at)
            jacobian = np.stack(
                [gx, gy, gx * turned_x + gy * turned_y, gy * turned_x - gx * turned_y], axis=-1
            )
            jacobian = jacobian.reshape(-1, 4)
            error = (fixed - sample(moving, at)).ravel()
            weighted = jacobian / (1 + (error / 0.15) ** 2)[:, None]
            step = np.linalg.solve(
                weighted.T @ jacobian + np.diag([1e-3, 1e-3, 0.3, 0.3]), weighted.T @ error
            )
            p = p + np.clip(step, [-3, -3, -0.2, -0.2], [3, 3, 0.2, 0.2])
            if np.abs(step[:2]).max() < 0.01:
                break
    return p


def misfit(reference: np.ndarray, frame: np.ndarray, p: np.ndarray) -> float:
    """Return the mean absolute difference left; infinite for a transform beyond what a drawing can do."""
    if np.abs(p[:2]).max() > 30 or abs(p[2]) > 1.2:
        return np.inf
    return np.abs(reference - sample(frame, positions(p))).mean()


def motion(animation: bytes) -> np.ndarray:
    """Return the standard deviations over a loop of shift x, shift y, zoom and rotation, in pixels, (4,)."""
    pixels = frames(animation, SAMPLES, FIELD).astype(np.float64)
    alpha = pixels[..., 3]
    channels = np.stack([pixels[..., :3].mean(-1) + 1 - alpha, alpha], axis=1)  # grey on white, and outline
    path = [np.zeros(4)]
    for frame in channels[1:]:
        best = np.zeros(4)  # no motion, unless something fits better
        for start in (path[-1], np.zeros(4)):
            found = register(channels[0], frame, start)
            if misfit(channels[0], frame, found) <= misfit(channels[0], frame, best):
                best = found
                break
        path.append(best)
    return (np.std(path, axis=0) * [1, 1, RADIUS, RADIUS]).astype(np.float32)


def watch(animation: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return an animation's eight small frames on white, and its motion."""
    return on_white(frames(animation, FRAMES, SIDE)), motion(animation)


def moves(animation: bytes) -> bool:
    """Return whether a file holds more than one frame."""
    with Image.open(io.BytesIO(animation)) as file:
        return file.n_frames > 1


def emoji_animations(packages: Packages, hexcodes: list[str], processes: int) -> dict[str, np.ndarray]:
    """Return the arrays of ``emoji_animations.npz``: the given things that move."""
    files = {}
    for key in ("animated1", "animated2", "animated3", "animated4"):
        files |= bitmaps(packages, key)
    moving = [h for h in hexcodes if h not in NOT_PUBLISHED and h in files and moves(files[h])]
    watched = []
    with Pool(processes) as pool:
        for seen in pool.imap(watch, [files[hexcode] for hexcode in moving], chunksize=4):
            watched.append(seen)
            if len(watched) % 50 == 0 or len(watched) == len(moving):
                print(f"  {len(watched)} of {len(moving)} animations", flush=True)
    videos, motion_px = (np.stack(parts) for parts in zip(*watched, strict=True))
    return {"videos": videos, "motion_px": motion_px, "hex": np.array(moving)}
