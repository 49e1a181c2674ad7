"""Peers that have the key and send malformed fields, beside an honest worker. Not collected by pytest.

::

    __main__: client, honest worker, figures  <--- socket, descriptors, files ---  peer: real frames with fields changed
"""
