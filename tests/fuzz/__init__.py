"""Peers that have the key and send malformed fields, beside a correct worker. Not collected by pytest.

::

    __main__: client, correct worker, figures  <--- socket, descriptors, files ---  peer: real frames with fields changed
"""
