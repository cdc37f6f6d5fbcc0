"""Opening a media file: one that is a file, of a format that holds its own sound and pictures.

FFmpeg also takes playlists, session descriptions and name patterns, which lead it to other files and hosts, formats in
which any text is a film, and devices. None of these is opened here, whatever the file is called or begins with.
"""

from __future__ import annotations

import stat
from pathlib import Path
from typing import Any

from extract.decoding.streams import StreamError

VIDEO = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,asf,flv,mpeg,mpegts,mpegvideo,mxf,nut,rm,dv,wtv,ogg,ivf"
BARE_VIDEO = "h264,hevc,m4v,mjpeg,obu,av1,vc1,h263"
AUDIO = "wav,w64,aiff,au,caf,mp3,flac,aac,ac3,eac3,dts,truehd,amr,amrnb,amrwb,ape,wv,tta,voc,nistsphere,loas"
PICTURES = "image2,png_pipe,apng,jpeg_pipe,bmp_pipe,tiff_pipe,webp_pipe,webp,gif,gif_pipe,jpegxl_pipe,ppm_pipe,pgm_pipe"
FORMATS = ",".join((VIDEO, BARE_VIDEO, AUDIO, PICTURES))
OPTIONS = {"format_whitelist": FORMATS, "protocol_whitelist": "file", "pattern_type": "none"}

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFSOCK: "a socket",
}


def require_file(path: Path) -> None:
    """Refuse what is no file; a named pipe, once opened, would be waited for.

    Raises:
        StreamError: saying what it is.
        OSError: there is nothing.
    """
    kind = stat.S_IFMT(path.stat().st_mode)
    if kind != stat.S_IFREG:
        raise StreamError(f"is {KINDS.get(kind, 'something')}, not a file")


def open_container(path: Path) -> Any:
    """PyAV's container of a file, to be closed by `with`.

    Raises:
        StreamError: it is no file, or of a format that is not read.
        av.FFmpegError: FFmpeg cannot open it.
    """
    import av

    require_file(path)
    try:
        return av.open(f"file:{path.absolute()}", metadata_errors="replace", options=OPTIONS)
    except av.ArgumentError as error:
        raise StreamError("is of a format that is not read, or its header is damaged") from error
