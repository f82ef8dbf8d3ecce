"""
The command `explain`: what becomes of a request, a stream or an answer, change by change, with each rule's reason.

    document.py     JSON text -> lines that know their path
    differences.py  two JSON texts -> changes -> lines with - and +
    request.py, stream.py, answer.py   run the translation -> what it did, as records
    request_page.py, answer_page.py    records -> lines to read
    machine.py      records -> JSON
    page.py, command.py                colours; arguments, files, exit codes
"""
