"""Files of strangers, made by changing good ones: does what reads them hold?"""
