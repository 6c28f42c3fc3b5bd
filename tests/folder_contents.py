"""What lies in a folder, to tell whether anything in it was changed."""

import hashlib


def contents(folder):
    """Every file and folder below one, hidden ones too, with a digest of what files hold."""
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "folder"
        for path in folder.rglob("*")
    }
