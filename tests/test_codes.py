from aiida_mlfinetune.calculations.validators import validate_program


def test_codes_exist(cp2k_code, python_code, ipi_code):
    validate = validate_program("cp2k")
    assert validate(cp2k_code, None) is None
    assert "not the right program" in validate(ipi_code, None)
