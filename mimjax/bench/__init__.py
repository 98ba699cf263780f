"""What a training step costs here, alone and beside a PyTorch model of others.

Every measurement is made by a process of its own, told what to do by one JSON argument
and answering with one JSON line. The process that starts them imports neither library.
"""
