"""What an answer is: ops and the pipeline they form. No sockets."""
